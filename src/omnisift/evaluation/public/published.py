"""Numbers published in the paper (arXiv 2602.04804 v2, tables 1 and 2), for a separate column of reports."""

from __future__ import annotations

from collections.abc import Mapping

SIZES = ("7b", "3b")
COLUMNS = ("worldsense", "omnivideobench", "videomme", "dailyomni", "video_salmonn2")
"""Benchmarks, in percent correct; the last in errors of captions as a percentage of events."""

_TABLE = """
7b full      100  49.7 35.6 67.6 72.2 48.1
7b omnizip    35  48.9 35.1 66.7 67.7 54.1
7b random     35  48.3 33.4 67.3 66.3 53.1
7b dycoke     35  48.6 34.4 67.9 67.9 52.7
7b omnisift   35  50.0 35.6 68.3 73.2 50.5
7b omnizip    25  48.1 34.1 66.0 66.2 57.2
7b random     25  47.1 32.6 66.1 65.2 56.9
7b dycoke     25  48.1 34.1 65.9 64.7 56.3
7b omnisift   25  49.9 35.4 68.2 72.5 51.2
3b full      100  45.8 33.5 64.2 67.0 53.6
3b omnizip    35  44.1 33.7 63.5 64.7 59.1
3b random     35  45.5 33.4 62.7 62.9 58.7
3b dycoke     35  45.3 32.8 63.3 63.2 58.5
3b omnisift   35  45.7 33.7 63.7 65.3 56.9
3b omnizip    25  43.8 32.4 62.3 64.2 62.1
3b random     25  43.3 33.0 62.3 61.2 62.0
3b dycoke     25  44.1 33.0 62.5 61.7 61.9
3b omnisift   25  45.8 33.1 63.0 64.7 58.3
"""


def _read(table: str) -> dict[tuple[str, str, int], Mapping[str, float]]:
    lines = [line.split() for line in table.strip().splitlines()]
    return {
        (size, method, int(percent)): dict(zip(COLUMNS, map(float, values), strict=True))
        for size, method, percent, *values in lines
    }


PUBLISHED = _read(_TABLE)
"""(size, method, percent of tokens kept) -> benchmark -> number."""


def published(size: str, method: str, percent: float, benchmark: str) -> float | None:
    """Return the paper's number, or None where it has none.

    Args:
        size: ``7b`` or ``3b``.
        method: Name of the method; ``none`` or ``full`` is all tokens.
        percent: Percentage requested; it may differ from the paper's by one point.
        benchmark: Name of the benchmark.
    """
    name = "full" if method == "none" else method
    for (row_size, row_method, row_percent), row in PUBLISHED.items():
        if (row_size, row_method) == (size, name) and abs(row_percent - percent) <= 1:
            return row.get(benchmark)
    return None
