"""The short table of the README: a few methods at three shares kept, each protocol in columns of its own."""

from __future__ import annotations

from pathlib import Path

from omnisift.evaluation.markdown import bold_best, pct, table
from omnisift.evaluation.recipe import FULL
from omnisift.evaluation.results import Result, read_result

SHOWN = (
    *("omnisift+time", "omnisift", "omnipack-I-attention", "omnipack-I", "divprune", "seats-I", "vidcom2", "v_cast"),
    *("salient", "tome", "evs", "omnizip-rebounded", "visionzip", "uniform", "random"),
)
COLUMNS = (("training-free", "50"), ("training-free", "25"), ("training-free", "10"), ("trained", "25"))


def short_table(folder: Path) -> str:
    """Markdown, from the result files of ``folder``."""
    results = {name: read_result(folder / f"{name}.jsonl") for name in ("training-free", "trained")}
    lines = [[label, *(_cell(results[name], label, percent) for name, percent in COLUMNS)] for label in SHOWN]
    bold_best(lines)
    lines.insert(0, [FULL, *(_cell(results[name], FULL, "") for name, _ in COLUMNS)])
    return table(["method", *(f"{name}, {percent} %" for name, percent in COLUMNS)], lines)


def _cell(result: Result, label: str, percent: str) -> str:
    row = result.row("base", label, percent)
    return "-" if row is None else pct(row.accuracy)
