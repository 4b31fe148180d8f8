"""Tables of the results page, the README's table, and the rows as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from omnisift.evaluation.tables import ALL_TOKENS, bold_best, p_value, pct, pct_with_interval, points, table
from omnisift.lab.benchmark.condition import Condition
from omnisift.lab.benchmark.results import Result, ResultRow, read_result
from omnisift.world import QUESTION_TYPES, WIDE_TYPES, world_setting
from omnisift.world.questions import ANSWERS

CHANCE = ("random", "random video", "random & random")
"""Label of a recipe's row that chooses at random."""


def percents(result: Result) -> list[str]:
    """Return the percentages kept, in the order of the recipe."""
    return list(dict.fromkeys(row.percent for row in result.rows if row.percent))


def rows_at(result: Result, setting: str, percent: str) -> list[ResultRow]:
    """Return the rows of all methods at one percentage, in the order of the recipe, without a result or with one."""
    rows = [result.row(setting, label, percent) for label in result.methods]
    return [row for row in rows if row is not None]


def reference_rows(result: Result, setting: str, percent: str) -> tuple[ResultRow | None, ResultRow | None]:
    """Return the recipe's first method and its random choice at one percentage, or None where there is none."""
    rows = rows_at(result, setting, percent)
    first = result.row(setting, next(iter(result.methods)), percent)
    return first, next((row for row in rows if row.label in CHANCE), None)


def matrix(result: Result) -> str:
    """Return the accuracy of each method at each percentage; the best of a column is bold."""
    setting = result.recipe["settings"][0]
    columns = percents(result)
    lines = [
        [label, *(_accuracy(result.row(setting, label, percent)) for percent in columns)] for label in result.methods
    ]
    bold_best(lines)
    lines = [[line[0], group, *line[1:]] for line, group in zip(lines, result.methods.values(), strict=True)]
    lines.insert(0, [ALL_TOKENS, "", *[_accuracy(result.full(setting)) for _ in columns]])
    return table(["method", "group", *(f"{percent} %" for percent in columns)], lines)


def losses_table(result: Result) -> str:
    """Return accuracies and paired differences of methods that were trained with several losses.

    Labels are ``method, loss`` and ``method, loss, more``; each loss is compared with the one before it.
    """
    setting, lines = result.recipe["settings"][0], []
    losses = list(dict.fromkeys(label.partition(", ")[2] for label in result.methods))
    methods = dict.fromkeys(label.partition(", ")[0] for label in result.methods)
    for percent in percents(result):
        for method in methods:
            rows = [result.row(setting, f"{method}, {loss}", percent) for loss in losses]
            minus = [_minus(result, row, before) for before, row in pairwise(rows) if row is not None]
            lines.append([f"{percent} %", method, *map(_accuracy, rows), *minus])
    lines.insert(0, ["100 %", ALL_TOKENS, _accuracy(result.full(setting)), *[""] * (2 * len(losses) - 2)])
    head = [f"{after} minus {before}" for before, after in pairwise(losses)]
    return table(["kept", "method", *losses, *head], lines)


def detail(result: Result, setting: str, percent: str) -> str:
    """Return every method at one percentage with intervals, evidence and time, the best first."""
    full = result.full(setting)
    first, _ = reference_rows(result, setting, percent)
    head = ["method", "accuracy", f"minus {next(iter(result.methods))}", "evidence", "events", "ms"]
    lines = []
    for row in [full, *sorted(rows_at(result, setting, percent), key=lambda row: -(row.accuracy or 0.0))]:
        if row.right is None:
            lines.append([row.title, "n/a", *[""] * (len(head) - 2)])
            continue
        lines.append(
            [
                row.title,
                pct_with_interval(result.interval(row)),
                _minus(result, row, first),
                _both(row, "shape_tokens", "sound_tokens"),
                _both(row, "shape_events", "sound_events"),
                "" if row is full else f"{row.ms:.1f}",
            ]
        )
    return table(head, lines)


def types_table(result: Result) -> str:
    """Return the measured shares, the accuracy with its interval, and that of each question type, of every row."""
    rows = _all_rows(result)
    lines = []
    for row in rows:
        kept = f"{pct(row.share('video'))} / {pct(row.share('audio'))}"
        lines.append([row_title(row), kept, pct_with_interval(result.interval(row)), *map(pct, row.by_type)])
    types = [name.replace("_", " ") for name in rows[0].types]
    return table(["row", "kept video / audio", "accuracy", *types], lines)


def paired_table(result: Result) -> str:
    """Return the differences of every row from all tokens and from the random choice of its size, with p."""
    lines = []
    for row in _all_rows(result)[1:]:
        _, chance = reference_rows(result, row.setting, row.percent)
        cells = [row_title(row)]
        for other in (result.full(row.setting), chance):
            if other is None or other is row:
                cells += ["", ""]
            else:
                gap, p = result.difference(row, other)
                cells += [points(gap), p_value(p)]
        lines.append(cells)
    return table(["row", "minus all tokens", "p", "minus random", "p"], lines)


def evidence_table(result: Result) -> str:
    """Return the percentages kept of events in question, and of the tokens of tied sounds and of distractors."""
    names = ("shape_events", "sound_events", "tied_tokens", "distractor_tokens")
    head = ["row", "shapes in question", "sounds in question", "tokens of tied sounds", "tokens of distractors"]
    return table(head, [[row_title(row), *(pct(row.share(name)) for name in names)] for row in _all_rows(result)[1:]])


def _all_rows(result: Result) -> list[ResultRow]:
    """All tokens, then every finished row of the first setting."""
    setting = result.recipe["settings"][0]
    rows = [row for percent in percents(result) for row in rows_at(result, setting, percent)]
    return [result.full(setting), *(row for row in rows if row.right is not None)]


def row_title(row: ResultRow) -> str:
    """Return the method and the percentage kept."""
    return f"{row.title} @ {row.percent} %" if row.percent else row.title


SENSES = {
    "heard": ("audio",),
    "said": ("audio",),
    **dict.fromkeys(("sound_with", "color_with_sound"), ("video", "audio")),
}
"""Question type -> senses that its answer needs; video for the types that are not named."""
BASELINES = ("question", "video", "audio")


def senses_table(results: Sequence[Result]) -> str:
    """Return the accuracy of each question type with all tokens, without the clip, and with one sense, by setting.

    A cell is bold if a sense is missing that the answer needs, and the accuracy is nevertheless at least halfway from
    guessing to that of all tokens.
    """
    settings = [result.recipe["settings"][0] for result in results]
    # These rows are the same at all fractions of a recipe, so take the first one.
    rows = [
        [next((row for row in result.rows if row.label == f"{only} only"), None) for only in BASELINES]
        for result in results
    ]
    lines = []
    for kind in max((world_setting(name).types for name in settings), key=len):
        needs = SENSES.get(kind, ("video",))
        line = [kind.replace("_", " "), " and ".join(needs)]
        for result, name, baselines in zip(results, settings, rows, strict=True):
            full = accuracy_of(result.full(name), kind)
            halfway = (full + 1 / len(ANSWERS[kind])) / 2
            line.append(pct(full))
            for only, row in zip(BASELINES, baselines, strict=True):
                value = accuracy_of(row, kind)
                missing = any(sense != only for sense in needs)
                line.append(f"**{pct(value)}**" if missing and value >= halfway else pct(value))
        lines.append(line)
    lines.append(["mean", ""])
    for result, name, baselines in zip(results, settings, rows, strict=True):
        lines[-1] += [_accuracy(row) for row in (result.full(name), *baselines)]
    head = [f"{name}: {what}" for name in settings for what in (ALL_TOKENS, *BASELINES)]
    return table(["question", "needs", *head], lines)


def accuracy_of(row: ResultRow | None, kind: str) -> float:
    """Return the accuracy of one question type, 0 to 1; NaN where the row or its type is missing."""
    if row is None or row.right is None or kind not in row.types:
        return math.nan
    return row.by_type[row.types.index(kind)]


def settings_table(result: Result, percent: str) -> str:
    """Return the accuracy of each method in each setting; the best of a column is bold."""
    settings = result.recipe["settings"]
    lines = [
        [label, *(_accuracy(result.row(setting, label, percent)) for setting in settings)] for label in result.methods
    ]
    bold_best(lines)
    lines.insert(0, [ALL_TOKENS, *(_accuracy(result.full(setting)) for setting in settings)])
    return table(["method", *settings], lines)


def sweep_table(result: Result) -> str:
    """Return two tables: the percentage of video varies, then that of audio."""
    split = {percent: (percent.split("/") * 2)[:2] for percent in percents(result)}
    halves = [
        ("video varies, 50 % of the audio is kept", [p for p, pair in split.items() if pair[1] == "50"]),
        ("audio varies, 25 % of the video is kept", [p for p, pair in split.items() if pair[0] == "25"]),
    ]
    setting = result.recipe["settings"][0]
    parts = []
    for modality, (title, chosen) in enumerate(halves):
        columns = sorted(chosen, key=lambda percent: -float(split[percent][modality]))
        lines = [[label, *(_accuracy(result.row(setting, label, p)) for p in columns)] for label in result.methods]
        bold_best(lines)
        head = ["method", *(f"{split[percent][modality]} %" for percent in columns)]
        parts += [f"Accuracy, {title} (all tokens: {_accuracy(result.full(setting))}):\n", table(head, lines)]
    return "\n".join(parts)


def pairs_table(result: Result, percent: str) -> str:
    """Return the accuracy of each video half (rows) with each audio half (columns); the best of a column is bold."""
    setting = result.recipe["settings"][0]
    halves = [label.split(" & ") for label in result.methods]
    videos, audios = (list(dict.fromkeys(pair[half] for pair in halves)) for half in (0, 1))
    lines = [
        [video, *(_accuracy(result.row(setting, f"{video} & {audio}", percent)) for audio in audios)]
        for video in videos
    ]
    bold_best(lines)
    title = f"Accuracy at {percent} % (all tokens: {_accuracy(result.full(setting))}):\n\n"
    return title + table(["video by / audio by", *audios], lines)


def reasons(result: Result) -> str:
    """Return the error messages of the cells n/a, as a list; empty if there is none."""
    errors = {(row.label, row.percent): row.unreachable for row in result.rows if row.unreachable}
    lines = [f"- {label} at {percent} %: {' '.join(why.split())}" for (label, percent), why in errors.items()]
    return "\n".join(["n/a:\n", *lines, ""]) if lines else ""


def _accuracy(row: ResultRow | None, missing: str = "") -> str:
    return missing if row is None else pct(row.accuracy)


def _both(row: ResultRow, shapes: str, sounds: str) -> str:
    return f"{pct(row.share(shapes))} / {pct(row.share(sounds))}"


def _minus(result: Result, row: ResultRow, other: ResultRow | None) -> str:
    if other is None or other.right is None or other is row:
        return ""
    return points(result.difference(row, other)[0])


PUBLISHED = {
    "random video": ("figure 12", -5.4, -2.2),
    "spatial only": ("figure 5", -3.4, -3.1),
    "temporal only": ("figure 5", -3.8, -3.1),
    "adaptive budget": ("table 11", -1.3, -0.7),
    "random audio": ("figure 12", -2.2, -0.9),
    "audio-only selector": ("figure 5", -3.9, -2.9),
    "direct attention, no head": ("table 12", -0.8, -0.3),
    "concatenated selector": ("table 12", -1.4, -0.6),
    "3 layers": ("table 8", -0.9, -1.0),
}
"""Row of the recipe -> (source, points against OmniSIFT on DailyOmni and WorldSense): 7B, 35 %, retrained."""
CLEAR = 0.05
"""Largest p at which a measured difference counts."""


def compare_with_paper(result: Result) -> str:
    """Return a table and a sentence on the published and the measured difference of each exchanged part."""
    setting, first = result.recipe["settings"][0], next(iter(result.methods))
    percents = list(dict.fromkeys(row.percent for row in result.rows if row.percent))
    lines: list[list[str]] = []
    agree: list[str] = []
    differ: list[str] = []
    for label, (source, daily, world) in PUBLISHED.items():
        cells, signs = [], []
        for percent in percents:
            row, complete = result.row(setting, label, percent), result.row(setting, first, percent)
            if row is None or complete is None or row.right is None or complete.right is None:
                cells.append("n/a")
                continue
            # A difference that may be chance has no sign.
            gap, p = result.difference(row, complete)
            cells.append(f"{100 * gap.value:+.1f}" if p <= CLEAR else f"({100 * gap.value:+.1f})")
            signs.append(0 if p > CLEAR else (1 if gap.value > 0 else -1))
        worse, better = signs.count(-1), signs.count(1)
        outcome = "no difference here" if not worse and not better else "agrees" if worse > better else "disagrees"
        (agree if outcome == "agrees" else differ).append(label)
        lines.append([label, source, f"{daily:+.1f} / {world:+.1f}", *cells, outcome])
    head = ["exchanged part", "paper", "DailyOmni / WorldSense", *(f"nano, {percent} %" for percent in percents), ""]
    intro = (
        "### Compared with the paper\n\nThe published differences, in points, are those of the paper's 7B model at "
        "35 %, each variant retrained. Those on nano are measured without training the language model; in brackets, p "
        f"is above {CLEAR}. *agrees* means that the variant is worse than the complete method at most percentages.\n"
    )
    last = f"nano agrees for {', '.join(agree) or 'none'}; it does not for {', '.join(differ) or 'none'}.\n"
    return "\n".join([intro, table(head, lines), last])


SHORT_METHODS = (
    *("resift", "omnisift+time", "gleanvid+divprune", "v_cast+divprune", "divprune", "omnipack-I-attention", "vidcom2"),
    *("omnizip-rebounded", "random"),
)
"""Labels of the rows after the one of all tokens."""
SHORT_RESULTS = ("base", "wide", "wide-qwen3")
"""Results with the columns of the table, two each."""


def short_table(folder: Path) -> str:
    """Return the Markdown table for the result files in ``folder``; the best method of each column is bold."""
    results = [read_result(folder / f"{name}.jsonl") for name in SHORT_RESULTS]
    columns = [(result, result.recipe["settings"][0], percent) for result in results for percent in percents(result)]
    lines = [
        [label, *(_accuracy(result.row(setting, label, percent), "-") for result, setting, percent in columns)]
        for label in SHORT_METHODS
    ]
    bold_best(lines)
    lines.insert(0, [ALL_TOKENS, *(_accuracy(result.full(setting)) for result, setting, _ in columns)])
    return table(["method", *(f"{result.recipe['name']}, {percent} %" for result, _, percent in columns)], lines)


CSV_COLUMNS = (
    *("setting", "method", "group", "percent", "video_kept", "audio_kept", "accuracy", "accuracy_low"),
    *("accuracy_high", "of_full", "minus_first", "minus_first_low", "minus_first_high", "p_first", "minus_random"),
    *("minus_random_low", "minus_random_high", "p_random", "shape_tokens", "sound_tokens", "shape_events"),
    *("sound_events", "ms", "seeds"),
)
"""First columns of a file. Accuracies, differences and kept shares are in percent; p is clustered by clip."""


def as_csv(result: Result) -> str:
    """Return all rows of a result. ``minus_first`` compares with the recipe's first method."""
    text = io.StringIO()
    asked = [kind for setting in result.recipe["settings"] for kind in Condition.parse(setting).world.types]
    # Every family has its own columns; a setting with other types has those.
    families = (QUESTION_TYPES, WIDE_TYPES, tuple(dict.fromkeys(asked)))
    types = next(family for family in families if set(asked) <= set(family))
    writer = csv.DictWriter(text, (*CSV_COLUMNS, *types, "unreachable"), restval="", lineterminator="\n")
    writer.writeheader()
    for setting in result.recipe["settings"]:
        writer.writerow(_csv_cells(result, result.full(setting), ""))
        for percent in percents(result):
            writer.writerows(_csv_cells(result, row, percent) for row in rows_at(result, setting, percent))
    return text.getvalue()


def _csv_cells(result: Result, row: ResultRow, percent: str) -> dict[str, str]:
    cells = {
        "setting": row.setting,
        "method": row.title,
        "group": result.methods.get(row.label, ""),
        "percent": row.percent,
        "seeds": str(row.seeds),
        "unreachable": " ".join(row.unreachable.split()),
    }
    if row.right is None:
        return cells
    interval, full = result.interval(row), result.full(row.setting)
    cells |= {"video_kept": _csv_percent(row.share("video")), "audio_kept": _csv_percent(row.share("audio"))}
    cells |= {"accuracy": _csv_percent(interval.value), "accuracy_low": _csv_percent(interval.low)}
    cells |= {"accuracy_high": _csv_percent(interval.high), "ms": f"{row.ms:.2f}" if row is not full else ""}
    cells["of_full"] = _csv_percent((row.accuracy or 0.0) / (full.accuracy or 1.0))
    for name, other in zip(("first", "random"), reference_rows(result, row.setting, percent), strict=True):
        if other is not None and other.right is not None and other is not row:
            gap, p = result.difference(row, other)
            cells |= {f"minus_{name}": _csv_percent(gap.value), f"minus_{name}_low": _csv_percent(gap.low)}
            cells |= {f"minus_{name}_high": _csv_percent(gap.high), f"p_{name}": f"{p:.2g}"}
    cells |= {name: _csv_percent(row.share(name)) for name in ("shape_tokens", "sound_tokens")}
    cells |= {name: _csv_percent(row.share(name)) for name in ("shape_events", "sound_events")}
    return cells | {name: _csv_percent(value) for name, value in zip(row.types, row.by_type, strict=True)}


def _csv_percent(share: float) -> str:
    return "" if math.isnan(share) else f"{100 * share:.2f}"


def versions(result: Result) -> str:
    """Return the commits, and versions and date of the last session, with a space after; empty where there is none."""
    if not result.sessions:
        return ""
    commits = dict.fromkeys(
        str(session.get("commit") or "none")[:10] + (" with changes" if session.get("changed") else "")
        for session in result.sessions
    )
    session: dict[str, Any] = result.sessions[-1]
    versions = f"torch {session['torch']}, transformers {session['transformers']}"
    return f"Commit{'s' * (len(commits) > 1)} {', '.join(commits)}, {versions}, {str(session['date'])[:10]}. "


def csv_links(names: Iterable[str]) -> str:
    """Return links to the CSV files of several results, as the last sentence of a paragraph."""
    return f"All rows as CSV: {', '.join(f'[{name}](results/{name}.csv)' for name in names)}."
