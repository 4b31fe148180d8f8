"""Write the tables of docs/streaming.md from the results of the benchmarks of streams.

python benchmarks/figures/streaming_tables.py
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT.parent / "docs" / "streaming.md"
TABLES = {
    "stream_hour": ROOT / "speed" / "stream_hour.py",
    "live_floor": ROOT / "accuracy" / "live_floor.py",
}
"""Name of a table, and of its result in results/ -> the benchmark, whose function ``table`` makes it."""


def filled(page: str) -> str:
    """The page with all its tables."""
    for name, path in TABLES.items():
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        benchmark = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(benchmark)
        results = json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))
        block = f"<!-- table {name} -->\n{benchmark.table(results)}\n<!-- end -->"
        page, count = re.subn(rf"<!-- table {name} -->\n.*?<!-- end -->", lambda _: block, page, flags=re.DOTALL)  # noqa: B023
        if count != 1:
            raise SystemExit(f"docs/streaming.md has {count} places for the table {name}: give it one")
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
