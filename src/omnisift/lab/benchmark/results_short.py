"""The README's table: accuracy of eight methods at three percentages without training and one after training."""

from __future__ import annotations

from pathlib import Path

from omnisift.evaluation.tables import bold_best, pct, table
from omnisift.lab.benchmark.recipe import ALL_TOKENS, FULL
from omnisift.lab.benchmark.results import Result, read_result

METHODS = (
    *("omnisift+time", "omnisift", "omnipack-I-attention", "divprune", "vidcom2", "v_cast", "omnizip-rebounded"),
    "random",
)
"""Labels of the rows after the one of all tokens."""
COLUMNS = (("training-free", "50"), ("training-free", "25"), ("training-free", "10"), ("trained", "25"))
"""Recipe and percent kept of each column."""


def short_table(folder: Path) -> str:
    """Return the Markdown table for the result files in ``folder``; the best method of each column is bold."""
    results = {name: read_result(folder / f"{name}.jsonl") for name in ("training-free", "trained")}
    lines = [[label, *(_cell(results[name], label, percent) for name, percent in COLUMNS)] for label in METHODS]
    bold_best(lines)
    lines.insert(0, [ALL_TOKENS, *(_cell(results[name], FULL, "") for name, _ in COLUMNS)])
    return table(["method", *(f"{name}, {percent} %" for name, percent in COLUMNS)], lines)


def _cell(result: Result, label: str, percent: str) -> str:
    row = result.row("base", label, percent)
    return "-" if row is None else pct(row.accuracy)
