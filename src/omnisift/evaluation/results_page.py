"""docs/results.md from result files: every table with the command that makes it, and in words what stands in it.

The page is a pure function of the files, so a test can tell when it is stale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnisift.evaluation.markdown import bold_best, p_value, pct, pct_with_interval, points, table
from omnisift.evaluation.paper import beside_the_paper
from omnisift.evaluation.recipe import FULL
from omnisift.evaluation.results import Result, ResultRow, rank_correlation, read_result
from omnisift.world import world_setting

ORDER = ("trained", "trained-tight", "training-free", "pairs", "ablations", "hard", "ratio-sweep")
PLOTTED = ("training-free", "ratio-sweep")
OURS = "omnisift+time"
RANDOM = "random"
HEAD = """# Results: every method on equal terms

Written by `omnisift bench-report` from the files in `benchmarks/results/quality`; a test fails when it is stale. All of
it was measured on [nano](nano.md)'s invented world with a backbone of nano's size
([how it was made](benchmark.md)), on two CPU cores. **Nothing here says how a method does on a full-size model.**
"""
NOTE = """## How to read the tables

- Methods keep the same numbers of video and audio tokens unless the table says otherwise; *kept* is the measured share
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
    """First paragraph: who is ahead in the trained protocol, and by how much; then training-free."""
    lines = []
    for result in results:
        if result.recipe["name"] not in ("trained", "trained-tight", "training-free"):
            continue
        for percent in _percents(result):
            sentence = _leader(result, percent)
            if sentence:
                lines.append(f"- {sentence}")
    return "\n".join(["## In short", "", *lines, ""])


def _leader(result: Result, percent: str) -> str:
    setting = result.recipe["settings"][0]
    rows = [row for row in _rows_at(result, setting, percent) if row.right is not None]
    ours = result.row(setting, OURS, percent)
    if ours is None or ours.right is None or not rows:
        return ""
    full = result.full(setting)
    family = {OURS, "omnisift", "omnisift, straight-through"}
    rivals = [row for row in rows if row.label not in family]
    best = max(rivals, key=lambda row: row.accuracy or 0.0)
    gap, p = result.difference(ours, best)
    loss, _ = result.difference(ours, full)
    verb = "ahead of" if gap.value > 0 else "behind"
    return (
        f"**{result.recipe['protocol']}, {percent} %**: {OURS} {pct(ours.accuracy)}, {points(loss)} against all tokens "
        f"({pct(full.accuracy)}); {verb} the best other method, {best.label} ({pct(best.accuracy)}), by "
        f"{points(gap)}, p {p_value(p)}."
    )


def _ranks(results: Sequence[Result]) -> str:
    """Do evidence and accuracy put the methods in the same order?"""
    lines = []
    for result in results:
        if result.recipe["name"] in ("trained", "training-free"):
            lines += [[result.recipe["protocol"], f"{p} %", *_correlations(result, p)] for p in _percents(result)]
    return RANKS + table(["protocol", "kept", "methods", "evidence", "events"], lines) if lines else ""


def _correlations(result: Result, percent: str) -> list[str]:
    rows = [row for row in _rows_at(result, result.recipe["settings"][0], percent) if row.right is not None]
    accuracy = [row.accuracy or 0.0 for row in rows]
    found = [rank_correlation(accuracy, values) for values in ([r.recall for r in rows], [r.coverage for r in rows])]
    return [str(len(rows)), *(f"{value:+.2f}" for value in found)]


def section(result: Result) -> str:
    """One recipe: what it is, the command, its tables."""
    recipe = result.recipe
    name = recipe["name"]
    where = result.sessions[-1] if result.sessions else {}
    clips = ", ".join(f"{count:,} of `{setting}`" for setting, count in result.clips.items())
    parts = [
        f"## {recipe['title']}\n",
        f"{' '.join(str(recipe['about']).split())}\n",
        f"```bash\nomnisift bench-quality recipes/{name}.yaml\n```\n",
        f"Protocol: {recipe['protocol']}. Test clips: {clips}. {_versions(where)}\n",
    ]
    if name == "hard":
        parts += [_settings_table(result, percent) for percent in _percents(result)]
    elif name == "ratio-sweep":
        parts += [_sweep_table(result)]
    elif name == "pairs":
        parts += [_pairs_table(result, percent) for percent in _percents(result)]
    else:
        if len(_percents(result)) > 1:
            parts += [f"![accuracy by share kept](results/{name}.svg)\n"] if name in PLOTTED else []
            parts += [_matrix(result)]
        for percent in _percents(result):
            parts += [f"### {recipe['title']}: {percent} % kept\n", _detail(result, percent), _types(result, percent)]
    if name == "ablations":
        parts += [beside_the_paper(result)]
    parts += [_reasons(result)]
    return "\n".join(part for part in parts if part)


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


def _percents(result: Result) -> list[str]:
    """In the order of the recipe."""
    return list(dict.fromkeys(row.percent for row in result.rows if row.percent))


def _ordered(result: Result) -> list[str]:
    return [way["label"] for way in result.recipe["ways"]]


def _rows_at(result: Result, setting: str, percent: str) -> list[ResultRow]:
    rows = [result.row(setting, label, percent) for label in _ordered(result)]
    return [row for row in rows if row is not None]


def _matrix(result: Result) -> str:
    """Method x share kept -> accuracy."""
    setting = result.recipe["settings"][0]
    percents = _percents(result)
    full = result.full(setting)
    lines = [[FULL, *[pct(full.accuracy) for _ in percents]]]
    for label in _ordered(result):
        rows = [result.row(setting, label, percent) for percent in percents]
        lines.append([label, *("" if row is None else pct(row.accuracy) for row in rows)])
    bold_best(lines[1:])
    groups = ["", *(way["group"] for way in result.recipe["ways"])]
    lines = [[line[0], group, *line[1:]] for line, group in zip(lines, groups, strict=True)]
    return table(["method", "kind", *(f"{percent} %" for percent in percents)], lines)


def _detail(result: Result, percent: str) -> str:
    setting = result.recipe["settings"][0]
    full = result.full(setting)
    first = result.recipe["ways"][0]["label"]
    ours = result.row(setting, first, percent)
    chance = result.row(setting, RANDOM, percent) or result.row(setting, "random picture", percent)
    head = ["method", "kept", "accuracy", "of full", f"minus {first}", "minus random", "evidence", "events", "ms"]
    if chance is not None and chance.label != RANDOM:
        head[5] = f"minus {chance.label}"
    lines = []
    for row in sorted(
        _rows_at(result, setting, percent), key=lambda row: -(row.accuracy if row.accuracy is not None else -1.0)
    ):
        if row.right is None:
            lines.append([row.label, "n/a", *[""] * (len(head) - 2)])
            continue
        lines.append(
            [
                row.label,
                f"{pct(row.share('video'))} / {pct(row.share('audio'))}",
                pct_with_interval(result.interval(row)),
                pct((row.accuracy or 0.0) / (full.accuracy or 1.0)),
                _versus(result, row, ours),
                _versus(result, row, chance),
                f"{pct(row.share('shape_tokens'))} / {pct(row.share('sound_tokens'))}",
                f"{pct(row.share('shape_events'))} / {pct(row.share('sound_events'))}",
                f"{row.ms:.2f}",
            ]
        )
    whole = [FULL, "100 / 100", pct_with_interval(result.interval(full)), "100.0", *[""] * 2]
    lines.insert(0, [*whole, "100.0 / 100.0", "100.0 / 100.0", ""])
    return table(head, lines)


def _types(result: Result, percent: str) -> str:
    """Accuracy by question type."""
    setting = result.recipe["settings"][0]
    types = world_setting(setting).types
    rows = [result.full(setting), *(row for row in _rows_at(result, setting, percent) if row.right is not None)]
    lines = [[row.label, *(pct(value) for value in row.by_type)] for row in rows]
    title = "<details><summary>Accuracy by type of question</summary>\n\n"
    return title + table(["method", *(name.replace("_", " ") for name in types)], lines) + "\n</details>\n"


def _settings_table(result: Result, percent: str) -> str:
    """Method x setting -> accuracy (and events kept)."""
    settings = result.recipe["settings"]
    lines = [[FULL, *(pct(result.full(setting).accuracy) for setting in settings)]]
    body = []
    for label in _ordered(result):
        rows = [result.row(setting, label, percent) for setting in settings]
        body.append([label, *("" if row is None else pct(row.accuracy) for row in rows)])
    bold_best(body)
    events = []
    for label in _ordered(result):
        rows = [result.row(setting, label, percent) for setting in settings]
        events.append([label, *(_events(row) for row in rows)])
    head = ["method", *settings]
    title = f"### {result.recipe['title']}: {percent} % kept\n\n"
    more = "<details><summary>Events kept, % (shapes / sounds)</summary>\n\n" + table(head, events) + "\n</details>\n"
    return title + table(head, lines + body) + "\n" + more


def _events(row: ResultRow | None) -> str:
    if row is None or row.right is None:
        return "n/a"
    return " / ".join("-" if math.isnan(value) else pct(value) for value in
                      (row.share("shape_events"), row.share("sound_events")))  # fmt: skip


def _sweep_table(result: Result) -> str:
    """Two tables: the picture's share varies, then the sound's."""
    percents = _percents(result)
    split = {percent: tuple(part for part in (percent.split("/") * 2)[:2]) for percent in percents}
    halves = [
        ("the picture's share varies, 50 % of the sound stays", [p for p in percents if split[p][1] == "50"]),
        ("the sound's share varies, 25 % of the picture stays", [p for p in percents if split[p][0] == "25"]),
    ]
    parts = [f"![accuracy by share kept](results/{result.recipe['name']}.svg)\n"]
    setting = result.recipe["settings"][0]
    for number, (title, chosen) in enumerate(halves):
        chosen = sorted(chosen, key=lambda p: -float(split[p][number]))
        head = ["method", *(f"{split[p][number]} %" for p in chosen)]
        lines = []
        for label in _ordered(result):
            rows = [result.row(setting, label, p) for p in chosen]
            lines.append([label, *("" if row is None else pct(row.accuracy) for row in rows)])
        bold_best(lines)
        parts += [f"Accuracy, {title} (all tokens: {pct(result.full(setting).accuracy)}):\n", table(head, lines)]
    return "\n".join(parts)


def _pairs_table(result: Result, percent: str) -> str:
    """Picture's half x sound's half -> accuracy."""
    setting = result.recipe["settings"][0]
    labels = [way["label"].split(" & ") for way in result.recipe["ways"]]
    pictures, sounds = (list(dict.fromkeys(label[half] for label in labels)) for half in (0, 1))
    lines = []
    for picture in pictures:
        rows = [result.row(setting, f"{picture} & {sound}", percent) for sound in sounds]
        lines.append([picture, *("" if row is None else pct(row.accuracy) for row in rows)])
    bold_best(lines)
    title = f"Accuracy at {percent} % (all tokens: {pct(result.full(setting).accuracy)}):\n\n"
    return title + table(["picture / sound", *sounds], lines)


def _reasons(result: Result) -> str:
    reasons = {(row.label, row.percent): row.unreachable for row in result.rows if row.unreachable}
    if not reasons:
        return ""
    lines = [f"- {label} at {percent} %: {' '.join(why.split())}" for (label, percent), why in reasons.items()]
    return "\n".join(["n/a:\n", *lines, ""])


def _versus(result: Result, row: ResultRow, other: ResultRow | None) -> str:
    if other is None or other.right is None or other is row:
        return ""
    gap, p = result.difference(row, other)
    return f"{points(gap)}, p {p_value(p)}"
