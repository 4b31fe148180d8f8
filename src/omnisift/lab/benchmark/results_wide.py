"""The page of results on the wide family: every method on every backbone, and which sense answers follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from omnisift.evaluation.tables import ALL_TOKENS, bold_best, p_value, pct, pct_with_interval, points, table
from omnisift.lab.benchmark.preference import preference_tables
from omnisift.lab.benchmark.results import Result, ResultRow
from omnisift.lab.benchmark.results_tables import csv_links, percents, reasons, rows_at, versions
from omnisift.world import CONFLICT

BACKBONES = {"wide": "Qwen2.5-Omni class", "wide-qwen3": "Qwen3-Omni class"}
"""Result with all methods on one backbone -> what the backbone is."""
PREFERENCE = "preference"
PAGE = (*BACKBONES, PREFERENCE)
"""Names of the results that this page shows."""
OURS = "resift"
"""Label of the row with which all others are compared."""
BASELINES = ("question only", "video only", "audio only")
"""Rows that keep the same tokens at every percentage."""
HEAD = """# Results on wide

All methods on clips that [look more like video](wide.md): four to eight video tokens to one audio token. Two backbones
of [nano](nano.md)'s size, each trained with all tokens only, read them. **No number says how a method does on a
full-size model.** `omnisift bench-report` writes the page from the files in `benchmarks/results/quality`.

![Ten clips of wide: six pictures each, above the spectrogram of the sound](figures/wide.png)

<!-- not run: takes hours -->
```bash
{commands}
```

{clips}
"""
OVERALL = """## In short

Accuracy in percent, the mean over {types} question types. *minus {ours}* is the paired difference from `{ours}` in
points with its 95 % interval. `{ours}` minus the best method without it:

{ahead}

"""
BY_TYPE = """## By question type

The percentages are those of the recipe: of the video and of the audio alike.

"""
CONTRADICTIONS = """## Picture against sound

Clips whose voice [contradicts the title](wide.md#picture-against-sound). *follow video*, *follow audio* and *neither*
are shares of the answers to a question that names no sense, in percent, with 95 % intervals bootstrapped over {clips}
test clips; an interval of 0.0 to 0.0 says that no answer was of this kind. *written* and *said* are the accuracies of
the questions about title and voice; *by audio* and *by video* are the answers to them with the word of the other sense.

"""


def wide_page(results: Mapping[str, Result]) -> str:
    """Return the page; empty where there is no result of the first backbone.

    Args:
        results: All results by name.
    """
    shown = {name: results[name] for name in BACKBONES if name in results}
    if not shown:
        return ""
    known = [results[name] for name in PAGE if name in results]
    commands = "\n".join(f"omnisift bench-quality recipes/{result.recipe['name']}.yaml" for result in known)
    clips = "\n".join(
        f"- `{result.recipe['name']}`: {result.clips[_setting(result)]:,} test clips. {versions(result).strip()}"
        for result in known
    )
    clips += f"\n\n{csv_links(result.recipe['name'] for result in known)}"
    parts = [HEAD.format(commands=commands, clips=clips), _overall(shown), BY_TYPE]
    for name, result in shown.items():
        parts += [_by_type(f"{name} ({BACKBONES[name]})", result, percent) for percent in percents(result)]
    if PREFERENCE in results:
        result = results[PREFERENCE]
        intro = CONTRADICTIONS.format(clips=result.clips[CONFLICT.name])
        parts.append(intro + preference_tables(result, CONFLICT.name))
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _overall(shown: Mapping[str, Result]) -> str:
    """Accuracy, and the difference from our method, of every method on every backbone."""
    first = next(iter(shown.values()))
    columns = [(result, percent) for result in shown.values() for percent in percents(result)]
    labels = [label for label in first.methods if label not in BASELINES]
    lines = [[label, *(_accuracy(_row(result, label, percent)) for result, percent in columns)] for label in labels]
    bold_best(lines)
    lines = [
        [line[0], *(cell for cells in zip(line[1:], _gaps(label, columns), strict=True) for cell in cells)]
        for label, line in zip(labels, lines, strict=True)
    ]
    lines.insert(0, [ALL_TOKENS, *(cell for result, _ in columns for cell in (_accuracy(_full(result)), ""))])
    head = ["method"]
    for result, percent in columns:
        head += [f"{result.recipe['name']}, {percent} %", f"minus {OURS}"]
    types = len(_full(first).types)
    text = OVERALL.format(types=types, ours=OURS, ahead=_lead(columns)) + table(head, lines)
    return "\n".join([text, *dict.fromkeys(reasons(result) for result in shown.values())])


def _gaps(label: str, columns: Sequence[tuple[Result, str]]) -> list[str]:
    cells = []
    for result, percent in columns:
        row, ours = _row(result, label, percent), _row(result, OURS, percent)
        known = row is not None and row.right is not None and ours is not None and label != OURS
        cells.append(points(result.difference(row, ours)[0]) if known and row and ours else "")
    return cells


def _lead(columns: Sequence[tuple[Result, str]]) -> str:
    """List the best method of others in each column, and our method's lead, with p."""
    lines = []
    for result, percent in columns:
        rows = [row for row in rows_at(result, _setting(result), percent) if row.right is not None]
        others = [row for row in rows if OURS not in row.label and row.label not in BASELINES]
        ours = _row(result, OURS, percent)
        if not others or ours is None:
            continue
        rival = max(others, key=lambda row: row.accuracy or 0.0)
        gap, p = result.difference(ours, rival)
        column = f"{result.recipe['name']}, {percent} %"
        lines.append(f"- {column}: `{rival.label}` ({pct(rival.accuracy)}): {points(gap)}, p = {p_value(p)}.")
    return "\n".join(lines)


def _by_type(title: str, result: Result, percent: str) -> str:
    full = result.full(_setting(result))
    rows = [row for row in rows_at(result, _setting(result), percent) if row.right is not None]
    ranked = [full, *sorted(rows, key=lambda row: -(row.accuracy or 0.0))]
    lines = [[row.title, pct_with_interval(result.interval(row)), *map(pct, row.by_type)] for row in ranked]
    types = [name.replace("_", " ") for name in full.types]
    return f"### {title}, {percent} %\n\n" + table(["method", "accuracy", *types], lines)


def _accuracy(row: ResultRow | None) -> str:
    return "" if row is None else pct(row.accuracy)


def _setting(result: Result) -> str:
    return str(result.recipe["settings"][0])


def _full(result: Result) -> ResultRow:
    return result.full(_setting(result))


def _row(result: Result, label: str, percent: str) -> ResultRow | None:
    return result.row(_setting(result), label, percent)
