"""Write the tables of scales in docs/small-machines.md from the result of benchmarks/accuracy/scales.py.

python benchmarks/figures/scales_tables.py
"""

from __future__ import annotations

import json

from streaming_tables import ROOT, filled_with, loaded

PAGE = ROOT.parent / "docs" / "small-machines.md"
RESULT = ROOT / "results" / "scales.json"


def filled(page: str) -> str:
    """The page with all its tables."""
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    return filled_with(page, loaded(ROOT / "accuracy" / "scales.py").Tables(result).parts())


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
