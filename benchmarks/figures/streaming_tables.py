"""Write the tables of docs/streaming.md and docs/old-events.md from the results of the benchmarks of streams.

python benchmarks/figures/streaming_tables.py
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
PAGES = [ROOT.parent / "docs" / name for name in ("streaming.md", "old-events.md")]
TABLES = {
    "stream_hour": ROOT / "speed" / "stream_hour.py",
    "live_floor": ROOT / "accuracy" / "live_floor.py",
}
"""Name of a table, and of its result in results/ -> the benchmark, whose function ``table`` makes it."""


def filled(page: str) -> str:
    """The page with all its tables."""
    rows = [
        json.loads(line) for line in (ROOT / "results" / "old_events.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    old_events = loaded(ROOT / "accuracy" / "old_events.py")
    tables = {
        "stream_cost": loaded(ROOT / "figures" / "cost_table.py").stream_table(),
        "old_events": old_events.short_table(rows).rstrip(),
        "old_events_all": old_events.tables([row for row in rows if row["split"] == "test"]).rstrip(),
    }
    for name, path in TABLES.items():
        results = json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))
        tables[name] = loaded(path).table(results)
    return filled_with(page, tables)


def filled_with(page: str, tables: Mapping[str, str]) -> str:
    """A page with these tables, by name, between its markers."""
    for name, table in tables.items():
        begin, end = f"<!-- table {name} -->\n", "<!-- end -->"
        if page.count(begin) > 1:
            raise SystemExit(f"a page has {page.count(begin)} places for the table {name}: give it one")
        if begin not in page:
            continue
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}{table}\n{end}{rest.partition(end)[2]}"
    return page


def loaded(path: Path) -> ModuleType:
    """A script of benchmarks/ as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look it up there
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
