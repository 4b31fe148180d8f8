"""docs/results.md from result files: every table with the command that makes it, and in words what stands in it.

The page is a pure function of the files, so a test can tell when it is stale.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnisift.evaluation.markdown import p_value, pct, points, table
from omnisift.evaluation.paper import CLEAR, beside_the_paper
from omnisift.evaluation.results import Result, rank_correlation, read_result
from omnisift.evaluation.results_tables import (
    detail,
    folded,
    matrix,
    pairs_table,
    percents,
    reasons,
    rows_at,
    settings_table,
    sweep_table,
    types_table,
)

ORDER = ("trained", "trained-tight", "training-free", "pairs", "ablations", "hard", "ratio-sweep")
PLOTTED = ("training-free", "ratio-sweep")
OURS = "omnisift+time"
FAMILY = {OURS, "omnisift", "omnisift, straight-through"}
HEAD = """# Results: every method on equal terms

Written by `omnisift bench-report` from the files in `benchmarks/results/quality`; a test fails when it is stale. All of
it was measured on [nano](nano.md)'s invented world with a backbone of nano's size
([how it was made](benchmark.md)), on two CPU cores. **Nothing here says how a method does on a full-size model.**
"""
NOTE = """## How to read the tables

- Methods keep the same numbers of video and audio tokens; `joint` and `routed` keep the same total. *kept* is the
  measured share of video / audio. A merging method keeps as many slots as others keep tokens.
- *accuracy* is the mean over question types in percent, with a 95 % interval bootstrapped over clips. An answer is
  right if the most likely first word, out of the whole vocabulary, is the right one. *of full* is its share of what all
  tokens reach.
- Differences are paired, question by question, in points, with their interval and p by clips.
- *evidence* is the share of the tokens that prove the answers which survived, *events* the share of shapes and sounds
  asked about of which at least one token survived; both for shapes / sounds.
- *ms* is the time of the method alone for one clip, measured beside another busy process: compare magnitudes only.
- n/a: the method can't reach the budget; its own words stand below the table.
"""


RANKS = """## Do evidence and accuracy rank methods alike?

Spearman's rank correlation of accuracy with each measure over the methods of a table. Events predict the order, the
better the smaller the budget is; the share of evidence tokens predicts it less. There are two reasons. One token of a
shape or a sound is often enough to answer by, so tokens beyond the first add little: methods that spread or pool keep
nearly all events with a quarter of their tokens. And where a method merges, a slot holds more than the token that it
counts for. Where most methods are close to all tokens (large budgets), differences are small and the order says little.

"""


def page(folder: Path) -> str:
    """The whole page from the result files of ``folder``. `UsageError` where there is none."""
    results = [read_result(path) for path in _files(folder)]
    parts = [HEAD, _summary(results), NOTE, _ranks(results)]
    parts += [section(result) for result in results]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _files(folder: Path) -> list[Path]:
    found = {path.stem: path for path in folder.glob("*.jsonl")}
    return [found[name] for name in [*ORDER, *sorted(found.keys() - set(ORDER))] if name in found]


def _summary(results: Sequence[Result]) -> str:
    """First paragraph: where ours stands in the trained protocol, and who is ahead of it; then training-free."""
    lines = []
    for result in results:
        if result.recipe["name"] not in ("trained", "trained-tight", "training-free"):
            continue
        for percent in percents(result):
            sentence = _leader(result, percent)
            if sentence:
                lines.append(f"- {sentence}")
    return "\n".join(["## In short", "", *lines, ""])


def _leader(result: Result, percent: str) -> str:
    """Where ours stands, and who is ahead of it by more than chance (p up to .05)."""
    setting = result.recipe["settings"][0]
    ours = result.row(setting, OURS, percent)
    if ours is None or ours.right is None:
        return ""
    full = result.full(setting)
    loss, _ = result.difference(ours, full)
    others = [row for row in rows_at(result, setting, percent) if row.right is not None and row.label not in FAMILY]
    ahead = []
    for row in sorted(others, key=lambda row: -(row.accuracy or 0.0)):
        gap, p = result.difference(row, ours)
        if gap.value > 0 and p <= CLEAR:
            ahead.append(f"{row.label} ({pct(row.accuracy)}, p {p_value(p)})")
    return (
        f"**{result.recipe['protocol']}, {percent} %**: {OURS} {pct(ours.accuracy)}, {points(loss)} against all tokens "
        f"({pct(full.accuracy)}). Ahead of it: {', '.join(ahead) or 'none of the others'}."
    )


def _ranks(results: Sequence[Result]) -> str:
    """Do evidence and accuracy put the methods in the same order?"""
    lines = []
    for result in results:
        if result.recipe["name"] in ("trained", "training-free"):
            lines += [[result.recipe["protocol"], f"{p} %", *_correlations(result, p)] for p in percents(result)]
    return RANKS + table(["protocol", "kept", "methods", "evidence", "events"], lines) if lines else ""


def _correlations(result: Result, percent: str) -> list[str]:
    rows = [row for row in rows_at(result, result.recipe["settings"][0], percent) if row.right is not None]
    accuracy = [row.accuracy or 0.0 for row in rows]
    found = [rank_correlation(accuracy, values) for values in ([r.recall for r in rows], [r.coverage for r in rows])]
    return [str(len(rows)), *(f"{value:+.2f}" for value in found)]


def section(result: Result) -> str:
    """One recipe: what it is, the command, its tables; then every row in full, folded."""
    recipe = result.recipe
    name = recipe["name"]
    where = result.sessions[-1] if result.sessions else {}
    clips = ", ".join(f"{result.clips[setting]:,} of `{setting}`" for setting in recipe["settings"])
    parts = [
        f"## {recipe['title']}\n",
        f"{' '.join(str(recipe['about']).split())}\n",
        f"```bash\nomnisift bench-quality recipes/{name}.yaml\n```\n",
        f"Protocol: {recipe['protocol']}. Test clips: {clips}. {_versions(where)}\n",
    ]
    parts += [f"![accuracy by share kept](results/{name}.svg)\n"] if name in PLOTTED else []
    parts += _overview(result)
    for setting in recipe["settings"]:
        at = f"`{setting}`, " if len(recipe["settings"]) > 1 else ""
        for percent in percents(result):
            if len(percents(result)) > 1:
                parts += [folded(f"{at}{percent} %: every row in full", detail(result, setting, percent))]
            parts += [folded(f"{at}{percent} %: by type of question", types_table(result, setting, percent))]
    parts += [beside_the_paper(result)] if name == "ablations" else []
    return "\n".join([*parts, reasons(result)])


def _overview(result: Result) -> list[str]:
    """The table that a recipe is for."""
    name, shares = result.recipe["name"], percents(result)
    if name == "hard":
        return [part for p in shares for part in (f"Accuracy at {p} %:\n", settings_table(result, p))]
    if name == "ratio-sweep":
        return [sweep_table(result)]
    if name == "pairs":
        return [pairs_table(result, percent) for percent in shares]
    if len(shares) > 1:
        return [matrix(result)]
    return [detail(result, result.recipe["settings"][0], shares[0])]


def _versions(where: dict[str, Any]) -> str:
    if not where:
        return ""
    commit = str(where.get("commit") or "no commit")[:10] + (" with changes" if where.get("changed") else "")
    spent = (
        f" The last run did {where['pieces']:,} pieces of work in {where['minutes']:.0f} minutes on "
        f"{where['workers']} processes."
        if "minutes" in where
        else ""
    )
    return (
        f"Commit {commit}, torch {where['torch']}, transformers {where['transformers']}, av {where['av']}, "
        f"{where['date']}.{spent}"
    )
