"""Import directions between the packages of `omnisift`, and the side effects of `import omnisift`.

The allowed directions are read from CONTRIBUTING.md, so its diagram can't differ from the code. Here a package is a
module or package directly under `omnisift`. Imports inside functions count too: a lazy import is still a dependency.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "omnisift"
FILES = sorted(PACKAGE.rglob("*.py"))

# Any engine can use the core, so it needs only torch; the selector is a Hugging Face model with safetensors files.
CORE = {"errors", "tokens", "chunks", "budget", "stvp", "ops", "estimators", "compressors"}
CORE |= {"vgas", "video_score", "utils"}
CORE_EXTRAS = {"vgas": {"transformers"}, "utils": {"safetensors", "transformers"}}
# Only media decodes; world encodes generated clips; `omnisift doctor` checks which formats PyAV can decode.
PYAV_PACKAGES = {"media", "world", "cli"}


@dataclass(frozen=True)
class Import:
    """One import statement's target, e.g. module `omnisift.models.base`, and its location."""

    file: Path
    line: int
    module: str

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.module}"


def read_directions(text: str) -> list[list[str]]:
    """The ```directions block: steps left to right, each a list of packages; `|` separates unrelated packages."""
    block = text.split("```directions\n")[1].split("```")[0]
    return [step.split() for step in " ".join(block.split()).replace(",", " ").split("->")]


STEPS = read_directions((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
RANK = {package: rank for rank, step in enumerate(STEPS) for package in step if package != "|"}
SEPARATED = [{package for package in step if package != "|"} for step in STEPS if "|" in step]


def may_import(importer: str, target: str) -> bool:
    """A package may import packages to its left and of its own step, unless `|` separates them."""
    if importer == target:
        return True
    if any({importer, target} <= step for step in SEPARATED):
        return False
    return RANK[target] <= RANK[importer]


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def absolute(node: ast.ImportFrom, file: Path) -> str:
    """The module of `from ... import`, with leading dots resolved."""
    if not node.level:
        return node.module or ""
    parts = [*module_name(file).split("."), *(["__init__"] if file.name == "__init__.py" else [])]
    return ".".join([*parts[: -node.level], *([node.module] if node.module else [])])


def targets(node: ast.AST, file: Path) -> list[str]:
    """What a statement imports; `from package import submodule` names the submodule."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = absolute(node, file)
        names = [f"{base}.{alias.name}" for alias in node.names]
        return [name if is_module(name) else base for name in names] if base.startswith("omnisift") else [base]
    return []


def imports(file: Path, source: str | None = None) -> list[Import]:
    """All imports of a file, at any depth: those in functions and under TYPE_CHECKING count too."""
    tree = ast.parse(file.read_text(encoding="utf-8") if source is None else source)
    return [Import(file, getattr(node, "lineno", 0), name) for node in ast.walk(tree) for name in targets(node, file)]


def package(module: str) -> str:
    """`omnisift.models.base` -> `models`; the package itself -> `` (empty)."""
    return module.split(".")[1] if "." in module else ""


ALL = [found for file in FILES for found in imports(file)]
OWN = [found for found in ALL if found.module.split(".")[0] == "omnisift"]
FOREIGN = [found for found in ALL if found.module.split(".")[0] not in {"omnisift", *sys.stdlib_module_names}]


def test_every_package_is_in_the_directions_block() -> None:
    packages = {package(module_name(file)) for file in FILES} - {""}
    assert packages - set(RANK) == set(), "add a new package to the directions block of CONTRIBUTING.md"


def test_left_never_imports_right() -> None:
    wrong = [
        str(found)
        for found in OWN
        if found.file != PACKAGE / "__init__.py"
        and not may_import(package(module_name(found.file)), package(found.module) or "cli")
    ]
    assert wrong == []


def test_packages_do_not_import_through_the_public_list() -> None:
    """`from omnisift import Budget` inside the library would hide the direction. Only the command line may do so."""
    through = [found for found in OWN if found.module == "omnisift" and found.file != PACKAGE / "__init__.py"]
    assert [str(found) for found in through if package(module_name(found.file)) != "cli"] == []


@pytest.mark.parametrize("name", sorted(CORE))
def test_core_imports_only_torch(name: str) -> None:
    allowed = {"torch"} | CORE_EXTRAS.get(name, set())
    foreign = [found for found in FOREIGN if package(module_name(found.file)) == name]
    assert [str(found) for found in foreign if found.module.split(".")[0] not in allowed] == []


def test_only_media_decodes() -> None:
    pyav = [found for found in FOREIGN if found.module.split(".")[0] == "av"]
    assert [str(found) for found in pyav if package(module_name(found.file)) not in PYAV_PACKAGES] == []


def find_cycle(graph: dict[str, set[str]]) -> list[str]:
    """The first cycle of a graph, its first node repeated at the end; empty without one."""
    done: set[str] = set()

    def walk(name: str, path: tuple[str, ...]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        cycle = next((found for target in sorted(graph[name] - {name}) if (found := walk(target, (*path, name)))), [])
        done.add(name)
        return cycle

    return next((found for name in graph if (found := walk(name, ()))), [])


def test_no_pickle() -> None:
    """Tensors are in safetensors files, which can't run code."""
    texts = {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in FILES}
    assert [name for name, text in texts.items() if re.search(r"\btorch\.(save|load)\(|\bimport pickle", text)] == []


def test_no_cycles_between_files() -> None:
    """Lazy imports count: neither of two files in a cycle can be understood without the other."""
    graph: dict[str, set[str]] = {module_name(file): set() for file in FILES}
    for found in OWN:
        if found.module in graph:
            graph[module_name(found.file)].add(found.module)
    assert find_cycle(graph) == []


def test_the_checks_can_fail() -> None:
    """The checks above find relative, lazy and submodule imports."""
    source = "def f():\n    from ..pipeline import load\nfrom .. import media\nimport omnisift.cli\n"
    seen = imports(PACKAGE / "compressors" / "base.py", source)
    assert {found.module for found in seen} == {"omnisift.pipeline", "omnisift.media", "omnisift.cli"}
    assert find_cycle({"a": {"b", "c"}, "b": set(), "c": {"d"}, "d": {"b", "c"}}) == ["c", "d", "c"]
    assert find_cycle({"a": {"a", "b"}, "b": set()}) == []
    assert not may_import("compressors", "pipeline")
    assert not may_import("training", "serving")
    assert not may_import("batch", "lab")
    assert may_import("pipeline", "compressors")
    assert may_import("vgas", "errors")


INERT = """
import json, logging, os, random, sys, threading, warnings
import torch
def state():
    return {
        "environment": dict(os.environ), "path": list(sys.path), "cwd": os.getcwd(),
        "handlers": len(logging.getLogger().handlers),
        "filters": len(warnings.filters), "running": threading.active_count(),
        "threads": torch.get_num_threads(), "dtype": str(torch.get_default_dtype()), "seed": torch.initial_seed(),
        "random": hash(random.getstate()), "cuda": torch.cuda.is_initialized(), "grad": torch.is_grad_enabled(),
    }
before, modules = state(), set(sys.modules)
import omnisift
after = state()
new = {name.split(".")[0] for name in set(sys.modules) - modules} - {"omnisift"} - sys.stdlib_module_names
print(json.dumps({"changed": [k for k in before if before[k] != after[k]], "heavy": sorted(new)}))
"""


def test_importing_omnisift_is_inert() -> None:
    """Beyond torch it loads no third-party module and changes nothing in the process; how long it takes is measured in
    benchmarks/speed/import_time.py, since a timed test would only measure the machine."""
    run = subprocess.run([sys.executable, "-c", INERT], capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(run.stdout) == {"changed": [], "heavy": []}
    assert run.stderr == ""
