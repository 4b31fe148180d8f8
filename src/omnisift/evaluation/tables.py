"""Markdown tables and the numbers in them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from omnisift.evaluation.statistics import Interval

ALL_TOKENS = "all tokens"
"""How tables and plots show `omnisift.compressors.FULL`."""


def pct(share: float | None) -> str:
    """Return a percentage such as ``97.3`` for a value in 0..1; ``n/a`` for None, ``-`` for NaN."""
    return "n/a" if share is None else "-" if math.isnan(share) else f"{100 * share:.1f}"


def pct_with_interval(interval: Interval) -> str:
    """Return a percentage with its interval, such as ``97.3 (96.9 to 97.6)``."""
    return f"{pct(interval.value)} ({pct(interval.low)} to {pct(interval.high)})"


def points(gap: Interval) -> str:
    """Return a difference in points with its interval, such as ``-1.3 (-1.6 to -1.1)``."""
    return f"{100 * gap.value:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"


def p_value(value: float) -> str:
    """Return p with three decimals, or as a power of ten below 0.001."""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}" if value > 1e-99 else "< 1e-99"


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table with a header and rows of cells."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def bold_best(lines: list[list[str]]) -> None:
    """Set the highest number of every column but the first in bold, in place; cells without a number are skipped."""
    for column in range(1, len(lines[0])):
        values = [_number(line[column]) for line in lines]
        best = max(values)
        for line, value in zip(lines, values, strict=True):
            if value == best and best > -math.inf:
                line[column] = f"**{line[column]}**"


def _number(cell: str) -> float:
    return float(cell) if cell.replace(".", "", 1).isdigit() else -math.inf
