"""Write the tables of docs/small-machines.md from the results of its benchmarks of accuracy, time and memory.

python benchmarks/figures/small_machine_tables.py
"""

from __future__ import annotations

import json

from streaming_tables import ROOT, filled_with, loaded

PAGE = ROOT.parent / "docs" / "small-machines.md"


def filled(page: str) -> str:
    """The page with these tables; those of other results stay as they are."""
    result = json.loads((ROOT / "results" / "quantized.json").read_text(encoding="utf-8"))
    tables = loaded(ROOT / "accuracy" / "quantized.py").Tables(result).parts()
    return filled_with(page, tables | loaded(ROOT / "speed" / "small_machine.py").parts())


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
