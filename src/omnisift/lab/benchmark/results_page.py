"""The results page: a summary and one main table per recipe, written from result files.

The page depends on the result files and recipes alone, so a test can tell when it is stale.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from omnisift.evaluation.statistics import rank_correlation
from omnisift.evaluation.tables import ALL_TOKENS, pct, points, table
from omnisift.lab.benchmark.choices import INPUTS, chosen_pair, transfer
from omnisift.lab.benchmark.recipe import BACKBONES, load_recipe
from omnisift.lab.benchmark.results import Result, read_result
from omnisift.lab.benchmark.results_claim import PAGE as CLAIM
from omnisift.lab.benchmark.results_tables import (
    CLEAR,
    compare_with_paper,
    csv_links,
    detail,
    evidence_table,
    losses_table,
    matrix,
    paired_table,
    pairs_table,
    percents,
    reasons,
    row_title,
    rows_at,
    senses_table,
    settings_table,
    sweep_table,
    types_table,
    versions,
)
from omnisift.lab.benchmark.results_wide import PAGE as WIDE

ORDER = ("trained", "trained-tight", "self-distillation", "training-free", "pairs", "ablations", "hard", "ratio-sweep")
BASELINES = ("baselines", "wide")
"""Results with rows for one sense, which share one table."""
SHARED = {*INPUTS, BASELINES[0]}
"""Names of results without a section or a page of their own."""
PLOTTED = ("training-free", "ratio-sweep")
SUMMARISED = ("training-free", "trained", "trained-tight")
OURS = "omnisift+time"
FAMILY = {OURS, "omnisift", "omnisift, straight-through"}
AHEAD = 5
"""Largest number of methods that the summary names in one cell."""
HEAD = """# More results

Ablations, pairs, trained methods and harder clips, most of them measured before `resift` came, which is therefore
missing in several tables. [The results](results.md) say which method is best.

Every number on this page was measured on [generated clips](benchmark.md#settings-of-the-world) with a backbone of
[nano](nano.md)'s size ([how it was made](benchmark.md)), on two CPU cores. **None of them says how a method does on a
full-size model.** `omnisift bench-report` writes the page from the files in `benchmarks/results/quality`.
"""
NOTE = """## How to read the tables

- Methods keep the same numbers of video and audio tokens; `joint` and `routed` keep the same total. A merging method
  keeps as many merged tokens as others keep tokens.
- *accuracy* is the mean over question types in percent, with a 95 % interval bootstrapped over clips. An answer is
  right if the most likely first word of the vocabulary is the right one. The best method of a column is bold.
- *minus* columns are paired differences in points on the same questions, with their 95 % intervals.
- *evidence* is the percentage kept of the tokens that prove the answers; *events* the percentage of shapes and sounds
  in question with at least one kept token. Both are given for shapes / sounds.
- *ms* is the time of the method alone per clip, measured on a busy machine: compare orders of magnitude only.
- n/a: the method cannot keep so few tokens; its error message follows the table.
- The CSV file of a section has all rows: measured shares, intervals, p values, evidence, and accuracy by question type.
"""


RANKS = """## Do evidence and accuracy rank methods alike?

Spearman's rank correlation of accuracy with each measure, over the methods of a table. Events predict the order, and
more so at smaller budgets; the share of evidence tokens predicts it less. There are two reasons. One token of a shape
or a sound is often enough for the answer, so further tokens add little: methods that spread or pool keep nearly all
events with a quarter of their tokens. And a merged token holds more than the token that it replaces. At large budgets
most methods are close to all tokens, so the order says little.

"""
SENSES = """## What can be answered without the clip, or by one sense

Accuracy in percent with all tokens, with the question alone, and with all tokens of the video or of the audio. A cell
is bold if a sense is missing that the answer needs, and the accuracy is nevertheless at least halfway from guessing to
that of all tokens. {bold} Guessing is right in half of the cases where only two answers are possible: `heard`, `before`
(the question names both), and `count` on `wide` (two or three shapes). With one sense of the two that a question needs,
the model names a sound or a colour that does occur. The backbones have never seen a prompt without a clip or a sense:
a model that is trained on such prompts may do better.

<!-- not run: takes hours -->
```bash
omnisift bench-quality recipes/baselines.yaml recipes/wide.yaml
```

{clips}

"""
OWN_NOTE = """Every clip was written as an .mp4 file, read back, prepared by the processor and encoded by the model. All
questions on a clip are answered in one packed pass, which gives the words of ordinary calls
([how](benchmark.md#how-one-row-is-measured)). Rows are named `method @ percent kept`: the same percentage of video and
of audio tokens; the measured percentages are in the table. `omnisift bench-report` writes this page.
"""
ACCURACY_NOTE = """An answer is right if the most likely first word of the whole vocabulary is the right one. Intervals
are 95 %, bootstrapped over clips. Chance is 1/6 for colours, 1/4 for forms and places, 1/2 for heard, 1/8 for sounds
and 1/3 for count.
"""
PAIRED_NOTE = "p is two-sided and assumes only that clips are independent.\n"
EVIDENCE_NOTE = """An event counts as kept if at least one of its tokens is kept, which may be too little for an answer.
Tied sounds belong to a shape, distractors do not.
"""
EARLIER_LABELS = {"video-blind+time": "omnisift+time, shuffled video"}
"""Row of the earlier benchmark -> label of the recipe."""
EARLIER_NOTE = """## Compared with the earlier page

Until 2026-11-28 this page was made by a benchmark of its own, `bench-nano`, whose numbers are in
`benchmarks/results/nano.json` (2,000 clips, commit f71a0584d1). What differs:

- **The same**: scenes and questions, the weights of the model and both selectors, budgets, the draws of `random`, and
  what counts as right.
- **The files**: clips are decoded from .mp4 files in both, but since 2026-11-26 the video encoder has another setting,
  which makes the same file on every processor, and torch and Transformers are newer. Rows without shuffled video
  differ by up to 0.2 points; these are the known differences in their input.
- **How questions are asked**: the earlier benchmark read every clip into a KV cache once per method and continued from
  it; this one packs the questions of a clip into the pass that reads it.
- **The control**: "video-blind" selected audio by the video of one of 32 validation clips; "shuffled video" takes the
  video of the previous test clip. Its numbers are therefore close, not equal.
- **No longer measured**: captions written freely (160 clips; recall of events was 92.4 % with all tokens, 91.6 % with
  omnisift+time at 25 % and 50.2 % with random at 25 %), and McNemar's test, which assumes that questions on one clip
  are independent.
- **New**: the paper's layout and the control at 35 %.

"""


def page(folder: Path, recipes: Path = Path("recipes")) -> str:
    """Return the page.

    Args:
        folder: Result files.
        recipes: Folder of recipes, whose titles and descriptions are used; where one is missing, those in the file.

    Raises:
        UsageError: A result has no finished row of all tokens.
    """
    by_name = {path.stem: read_result(path) for path in _files(folder)}
    results = [
        result for name, result in by_name.items() if name not in {*SHARED, *WIDE, *CLAIM} and not has_own_page(result)
    ]
    parts = [HEAD, _summary(results), NOTE, _ranks(results)]
    for result in results:
        parts.append(section(result, recipes))
        parts += [chosen_pair(by_name)] if result.recipe["name"] == "pairs" else []
    parts += [transfer(by_name), _senses([by_name[name] for name in BASELINES if name in by_name])]
    return "\n".join(part.rstrip() + "\n" for part in parts if part)


def has_own_page(result: Result) -> bool:
    """Return whether a result was measured on another backbone than the one on which methods are compared."""
    if result.recipe["name"] in {*SHARED, *WIDE, *CLAIM}:
        return False
    return bool(result.recipe.get("backbone", BACKBONES[0]) != BACKBONES[0])


def own_page(result: Result, recipes: Path = Path("recipes"), earlier: Path | None = None) -> str:
    """Return the page of one result: accuracy by question type, paired differences and kept evidence.

    Args:
        result: The result.
        recipes: As for `page`.
        earlier: The result file of the benchmark that this one replaced, for a comparison.
    """
    title, intro = _intro(result, recipes)
    parts = [f"# {title}\n", *intro, OWN_NOTE]
    parts += ["## Accuracy (%)\n", types_table(result), ACCURACY_NOTE]
    parts += ["## Paired differences (points)\n", paired_table(result), PAIRED_NOTE]
    parts += ["## Evidence kept (%)\n", evidence_table(result), EVIDENCE_NOTE]
    return "\n".join(parts) + (_earlier(result, earlier) if earlier is not None else reasons(result))


def _earlier(result: Result, path: Path) -> str:
    """Compare with the result of the earlier benchmark, whose rows are named ``method@percent``."""
    before = json.loads(path.read_text(encoding="utf-8"))
    setting, lines = result.recipe["settings"][0], []
    for old in before["rows"]:
        label, _, percent = old["row"].partition("@")
        row = result.row(setting, EARLIER_LABELS.get(label, label), percent)
        if row is not None:
            lines.append([old["row"], row_title(row), pct(old["mean"]["value"]), pct(row.accuracy)])
    return "\n" + EARLIER_NOTE + table(["earlier row", "row", "earlier accuracy", "accuracy"], lines)


def _files(folder: Path) -> list[Path]:
    by_name = {path.stem: path for path in folder.glob("*.jsonl")}
    return [by_name[name] for name in [*ORDER, *sorted(by_name.keys() - set(ORDER))] if name in by_name]


def _summary(results: Sequence[Result]) -> str:
    """Rank of OmniSIFT in each protocol and at each percentage, with the methods that are significantly ahead."""
    by_name = {result.recipe["name"]: result for result in results}
    lines = [
        cells
        for name in SUMMARISED
        if name in by_name
        for percent in percents(by_name[name])
        if (cells := _standing(by_name[name], percent))
    ]
    intro = f"## In short\n\nAccuracy in percent; a method is ahead if it is better with p up to {CLEAR}.\n\n"
    head = ["protocol", "kept", ALL_TOKENS, OURS, "difference", "methods ahead of it"]
    return intro + table(head, lines) if lines else ""


def _standing(result: Result, percent: str) -> list[str]:
    setting = result.recipe["settings"][0]
    ours = result.row(setting, OURS, percent)
    if ours is None or ours.right is None:
        return []
    full = result.full(setting)
    loss, _ = result.difference(ours, full)
    others = [row for row in rows_at(result, setting, percent) if row.right is not None and row.label not in FAMILY]
    ahead = []
    for row in sorted(others, key=lambda row: -(row.accuracy or 0.0)):
        gap, p = result.difference(row, ours)
        if gap.value > 0 and p <= CLEAR:
            ahead.append(f"{row.label} {pct(row.accuracy)}")
    names = ", ".join(ahead[:AHEAD]) + (f" and {len(ahead) - AHEAD} more" if len(ahead) > AHEAD else "")
    protocol = result.recipe["protocol"]
    return [protocol, f"{percent} %", pct(full.accuracy), pct(ours.accuracy), points(loss), names or "none"]


def _ranks(results: Sequence[Result]) -> str:
    lines = []
    for result in results:
        if result.recipe["name"] in ("trained", "training-free"):
            lines += [[result.recipe["protocol"], f"{p} %", *_correlations(result, p)] for p in percents(result)]
    return RANKS + table(["protocol", "kept", "methods", "evidence", "events"], lines) if lines else ""


def _correlations(result: Result, percent: str) -> list[str]:
    rows = [row for row in rows_at(result, result.recipe["settings"][0], percent) if row.right is not None]
    accuracy = [row.accuracy or 0.0 for row in rows]
    correlations = [
        rank_correlation(accuracy, values) for values in ([r.recall for r in rows], [r.coverage for r in rows])
    ]
    return [str(len(rows)), *(f"{value:+.2f}" for value in correlations)]


def _senses(results: Sequence[Result]) -> str:
    if not results:
        return ""
    clips = ", ".join(f"{count:,} of `{setting}`" for result in results for setting, count in result.clips.items())
    clips = f"Test clips: {clips}. {versions(results[-1])}{csv_links(result.recipe['name'] for result in results)}"
    cells = senses_table(results)
    bold = "These types are the exceptions." if "**" in cells else "No cell is bold: no type is answered so."
    return SENSES.format(bold=bold, clips=clips) + cells


def section(result: Result, recipes: Path = Path("recipes")) -> str:
    """Return the description, command, main table and links of one recipe."""
    name = result.recipe["name"]
    title, parts = _intro(result, recipes)
    parts = [f"## {title}\n", *parts]
    parts += [f"![Accuracy by percentage kept](results/{name}.svg)\n"] if name in PLOTTED else []
    parts += _main_tables(result)
    parts += [compare_with_paper(result)] if name == "ablations" else []
    return "\n".join([*parts, reasons(result)])


def _intro(result: Result, recipes: Path) -> tuple[str, list[str]]:
    """Return the title of a result, and its description, command and provenance."""
    name = result.recipe["name"]
    title, about = result.recipe["title"], result.recipe["about"]
    if (recipes / f"{name}.yaml").is_file():
        recipe = load_recipe(recipes / f"{name}.yaml")
        title, about = recipe.title, recipe.about
    settings = result.recipe["settings"]
    clips = {result.clips[setting] for setting in settings}
    where = ", ".join(f"`{setting}`" for setting in settings)
    each = " each" if len(settings) > 1 else ""
    return title, [
        f"{' '.join(str(about).split())}\n",
        f"<!-- not run: takes hours -->\n```bash\nomnisift bench-quality recipes/{name}.yaml\n```\n",
        f"Protocol: {result.recipe['protocol']}. Test clips: {' or '.join(f'{count:,}' for count in sorted(clips))}"
        f"{each} of {where}. {versions(result)}[All rows as CSV](results/{name}.csv).\n",
    ]


def _main_tables(result: Result) -> list[str]:
    name, columns = result.recipe["name"], percents(result)
    if name == "hard":
        return [part for p in columns for part in (f"Accuracy at {p} %:\n", settings_table(result, p))]
    if name == "ratio-sweep":
        return [sweep_table(result)]
    if name == "self-distillation":
        return [losses_table(result)]
    if name == "pairs":
        return [pairs_table(result, percent) for percent in columns]
    if len(columns) > 1:
        return [matrix(result)]
    return [detail(result, result.recipe["settings"][0], columns[0])]
