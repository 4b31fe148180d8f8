"""Tables of the results page."""

from __future__ import annotations

from omnisift.evaluation.tables import bold_best, pct, pct_with_interval, points, table
from omnisift.lab.benchmark.recipe import ALL_TOKENS
from omnisift.lab.benchmark.results import Result, ResultRow

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


def _accuracy(row: ResultRow | None) -> str:
    return "" if row is None else pct(row.accuracy)


def _both(row: ResultRow, shapes: str, sounds: str) -> str:
    return f"{pct(row.share(shapes))} / {pct(row.share(sounds))}"


def _minus(result: Result, row: ResultRow, other: ResultRow | None) -> str:
    if other is None or other.right is None or other is row:
        return ""
    return points(result.difference(row, other)[0])
