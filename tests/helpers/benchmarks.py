"""Import a benchmark script as a module."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def load_benchmark(name: str) -> ModuleType:
    """Import a benchmark."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", next((ROOT / "benchmarks").glob(f"*/{name}.py")))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up there
    sys.path.insert(0, str(Path(module.__file__ or "").parent))  # as for a script: one imports another
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module
