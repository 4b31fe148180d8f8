"""docs/choosing.md recommends what the result files say."""

from __future__ import annotations

import re
from pathlib import Path

from omnisift.lab.benchmark.results import ResultRow, read_result

ROOT = Path(__file__).parents[1]
KINDS = {
    "colour of a shape": "color_of_shape",
    "shape of a colour": "shape_of_color",
    "position": "place",
    "which came last": "order",
    "counting": "count",
    "sound of a shape": "sound_with",
    "colour of what sounds": "color_with_sound",
    "was it heard": "heard",
}
RESULT = read_result(ROOT / "benchmarks" / "results" / "quality" / "training-free.jsonl")
ROWS = [row for row in RESULT.rows if row.right is not None and row.setting == "base"]


def accuracy(row: ResultRow, kind: str) -> float:
    return 100 * float(row.by_type[list(row.types).index(kind)])


def smallest(label: str, kind: str, full: float) -> str:
    """The smallest fraction within one point of all tokens for which every larger one is too; ``-`` if none is."""
    rows = sorted((row for row in ROWS if row.label == label), key=lambda row: -float(row.percent))
    result = "-"
    for row in rows:
        if full - accuracy(row, kind) > 1 + 1e-9:
            break
        result = f"{float(row.percent) / 100:g}"
    return result


def test_the_table_of_fractions_matches_the_results() -> None:
    text = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
    (header,) = re.findall(r"^\| question \|(.+)\|$", text, re.MULTILINE)
    methods = [cell.strip() for cell in header.split("|")][1:]
    (every_token,) = (row for row in ROWS if row.label == "full")
    for name, kind in KINDS.items():
        line = re.findall(rf"^\| {name} \|(.+)\|$", text, re.MULTILINE)[0]
        full, *cells = [cell.strip() for cell in line.split("|")]
        assert full == f"{accuracy(every_token, kind):.1f}"
        assert cells == [smallest(method, kind, accuracy(every_token, kind)) for method in methods], name
