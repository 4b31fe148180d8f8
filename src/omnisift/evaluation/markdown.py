"""How numbers look in the tables of the documentation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from omnisift.evaluation.statistics import Interval


def pct(share: float | None) -> str:
    """``97.3`` for a share in 0..1; ``n/a`` for None, ``-`` for NaN."""
    return "n/a" if share is None else "-" if math.isnan(share) else f"{100 * share:.1f}"


def pct_with_interval(interval: Interval) -> str:
    """``97.3 (96.9 to 97.6)``."""
    return f"{pct(interval.value)} ({pct(interval.low)} to {pct(interval.high)})"


def points(gap: Interval) -> str:
    """A difference: ``-1.3 (-1.6 to -1.1)``."""
    return f"{100 * gap.value:+.1f} ({100 * gap.low:+.1f} to {100 * gap.high:+.1f})"


def p_value(value: float) -> str:
    """Three decimals, or a power of ten."""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}" if value > 1e-99 else "< 1e-99"


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def bold_best(lines: list[list[str]]) -> None:
    """Mark the highest number of every column but the first, in place; cells that are no numbers are passed over."""
    for column in range(1, len(lines[0])):
        values = [_number(line[column]) for line in lines]
        best = max(values)
        for line, value in zip(lines, values, strict=True):
            if value == best and best > -math.inf:
                line[column] = f"**{line[column]}**"


def _number(cell: str) -> float:
    return float(cell) if cell.replace(".", "", 1).isdigit() else -math.inf
