"""The tables of the results page."""

from __future__ import annotations

from omnisift.evaluation.markdown import bold_best, p_value, pct, pct_with_interval, points, table
from omnisift.evaluation.recipe import FULL
from omnisift.evaluation.results import Result, ResultRow
from omnisift.world import world_setting

CHANCE = ("random", "random picture", "random & random")
"""The row of a recipe that draws."""


def percents(result: Result) -> list[str]:
    """In the order of the recipe."""
    return list(dict.fromkeys(row.percent for row in result.rows if row.percent))


def ordered(result: Result) -> list[str]:
    """Labels of the methods, in the order of the recipe."""
    return [way["label"] for way in result.recipe["ways"]]


def rows_at(result: Result, setting: str, percent: str) -> list[ResultRow]:
    """All methods at one share, those without a result among them, in the order of the recipe."""
    rows = [result.row(setting, label, percent) for label in ordered(result)]
    return [row for row in rows if row is not None]


def matrix(result: Result) -> str:
    """Method x share kept -> accuracy."""
    setting = result.recipe["settings"][0]
    shares = percents(result)
    full = result.full(setting)
    lines = [[FULL, *[pct(full.accuracy) for _ in shares]]]
    for label in ordered(result):
        rows = [result.row(setting, label, percent) for percent in shares]
        lines.append([label, *("" if row is None else pct(row.accuracy) for row in rows)])
    bold_best(lines[1:])
    groups = ["", *(way["group"] for way in result.recipe["ways"])]
    lines = [[line[0], group, *line[1:]] for line, group in zip(lines, groups, strict=True)]
    return table(["method", "kind", *(f"{percent} %" for percent in shares)], lines)


def detail(result: Result, setting: str, percent: str) -> str:
    """One setting and share: every method with interval, paired tests, evidence and time; the best first."""
    full = result.full(setting)
    first = result.recipe["ways"][0]["label"]
    ours = result.row(setting, first, percent)
    chance = next((row for row in rows_at(result, setting, percent) if row.label in CHANCE), None)
    less = [f"minus {first}", f"minus {chance.label if chance else CHANCE[0]}"]
    head = ["method", "kept", "accuracy", "of full", *less, "evidence", "events", "ms"]
    lines = []
    for row in [full, *sorted(rows_at(result, setting, percent), key=lambda row: -(row.accuracy or 0.0))]:
        if row.right is None:
            lines.append([row.label, "n/a", *[""] * (len(head) - 2)])
            continue
        lines.append(
            [
                row.label,
                _both(row, "video", "audio"),
                pct_with_interval(result.interval(row)),
                pct((row.accuracy or 0.0) / (full.accuracy or 1.0)),
                _versus(result, row, ours),
                _versus(result, row, chance),
                _both(row, "shape_tokens", "sound_tokens"),
                _both(row, "shape_events", "sound_events"),
                "" if row is full else f"{row.ms:.2f}",
            ]
        )
    return table(head, lines)


def _both(row: ResultRow, picture: str, sound: str) -> str:
    return f"{pct(row.share(picture))} / {pct(row.share(sound))}"


def folded(title: str, text: str) -> str:
    """Markdown that is opened by a click, on GitHub and in the site."""
    return f'<details markdown="1"><summary>{title}</summary>\n\n{text}\n</details>\n'


def types_table(result: Result, setting: str, percent: str) -> str:
    """Accuracy by question type."""
    types = world_setting(setting).types
    rows = [result.full(setting), *(row for row in rows_at(result, setting, percent) if row.right is not None)]
    lines = [[row.label, *(pct(value) for value in row.by_type)] for row in rows]
    return table(["method", *(name.replace("_", " ") for name in types)], lines)


def settings_table(result: Result, percent: str) -> str:
    """Method x setting -> accuracy."""
    settings = result.recipe["settings"]
    lines = []
    for label in ordered(result):
        rows = [result.row(setting, label, percent) for setting in settings]
        lines.append([label, *("" if row is None else pct(row.accuracy) for row in rows)])
    bold_best(lines)
    lines.insert(0, [FULL, *(pct(result.full(setting).accuracy) for setting in settings)])
    return table(["method", *settings], lines)


def sweep_table(result: Result) -> str:
    """Two tables: the picture's share varies, then the sound's."""
    shares = percents(result)
    split = {percent: tuple(part for part in (percent.split("/") * 2)[:2]) for percent in shares}
    halves = [
        ("the picture's share varies, 50 % of the sound stays", [p for p in shares if split[p][1] == "50"]),
        ("the sound's share varies, 25 % of the picture stays", [p for p in shares if split[p][0] == "25"]),
    ]
    parts = []
    setting = result.recipe["settings"][0]
    for number, (title, chosen) in enumerate(halves):
        chosen = sorted(chosen, key=lambda p: -float(split[p][number]))
        head = ["method", *(f"{split[p][number]} %" for p in chosen)]
        lines = []
        for label in ordered(result):
            rows = [result.row(setting, label, p) for p in chosen]
            lines.append([label, *("" if row is None else pct(row.accuracy) for row in rows)])
        bold_best(lines)
        parts += [f"Accuracy, {title} (all tokens: {pct(result.full(setting).accuracy)}):\n", table(head, lines)]
    return "\n".join(parts)


def pairs_table(result: Result, percent: str) -> str:
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


def reasons(result: Result) -> str:
    """Why a cell is n/a, in the method's own words; empty where none is."""
    found = {(row.label, row.percent): row.unreachable for row in result.rows if row.unreachable}
    lines = [f"- {label} at {percent} %: {' '.join(why.split())}" for (label, percent), why in found.items()]
    return "\n".join(["n/a:\n", *lines, ""]) if lines else ""


def _versus(result: Result, row: ResultRow, other: ResultRow | None) -> str:
    if other is None or other.right is None or other is row:
        return ""
    gap, p = result.difference(row, other)
    return f"{points(gap)}, p {p_value(p)}"
