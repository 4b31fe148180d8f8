"""Detail tables of the results page as CSV: one file per recipe, one row per setting, method and percentage kept."""

from __future__ import annotations

import csv
import io
import math

from omnisift.lab.benchmark.results import Result, ResultRow
from omnisift.lab.benchmark.results_tables import percents, reference_rows, rows_at
from omnisift.world import QUESTION_TYPES

COLUMNS = (
    *("setting", "method", "group", "percent", "video_kept", "audio_kept", "accuracy", "accuracy_low"),
    *("accuracy_high", "of_full", "minus_first", "minus_first_low", "minus_first_high", "p_first", "minus_random"),
    *("minus_random_low", "minus_random_high", "p_random", "shape_tokens", "sound_tokens", "shape_events"),
    *("sound_events", "ms", "seeds", *QUESTION_TYPES, "unreachable"),
)
"""Columns of a file. Accuracies, differences and kept shares are in percent; p is two-sided and clustered by clip."""


def as_csv(result: Result) -> str:
    """Return all rows of a result. ``minus_first`` compares with the recipe's first method."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for setting in result.recipe["settings"]:
        writer.writerow(_cells(result, result.full(setting), ""))
        for percent in percents(result):
            writer.writerows(_cells(result, row, percent) for row in rows_at(result, setting, percent))
    return text.getvalue()


def _cells(result: Result, row: ResultRow, percent: str) -> dict[str, str]:
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
    cells |= {"video_kept": _percent(row.share("video")), "audio_kept": _percent(row.share("audio"))}
    cells |= {"accuracy": _percent(interval.value), "accuracy_low": _percent(interval.low)}
    cells |= {"accuracy_high": _percent(interval.high), "ms": f"{row.ms:.2f}" if row is not full else ""}
    cells["of_full"] = _percent((row.accuracy or 0.0) / (full.accuracy or 1.0))
    for name, other in zip(("first", "random"), reference_rows(result, row.setting, percent), strict=True):
        if other is not None and other.right is not None and other is not row:
            gap, p = result.difference(row, other)
            cells |= {f"minus_{name}": _percent(gap.value), f"minus_{name}_low": _percent(gap.low)}
            cells |= {f"minus_{name}_high": _percent(gap.high), f"p_{name}": f"{p:.2g}"}
    cells |= {name: _percent(row.share(name)) for name in ("shape_tokens", "sound_tokens")}
    cells |= {name: _percent(row.share(name)) for name in ("shape_events", "sound_events")}
    return cells | {name: _percent(value) for name, value in zip(row.types, row.by_type, strict=True)}


def _percent(share: float) -> str:
    return "" if math.isnan(share) else f"{100 * share:.2f}"
