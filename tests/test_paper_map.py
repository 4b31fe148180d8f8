"""docs/paper-map.md names code that exists, and names every module that implements the paper."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "paper-map.md"
# Modules that implement the paper; each must appear.
PAPER_MODULES = {"tokens.py", "chunks.py", "budget.py", "stvp.py", "vgas.py", "straight_through.py"}


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    term: str
    equation: str
    symbol: str
    file: str


def read_rows(text: str) -> list[Row]:
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [Row(*(cell.strip().strip("`") for cell in line.strip("|").split("|"))) for line in lines]


def defined(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    """Names that a module or class body defines itself; imported names do not count."""
    names: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[node.target.id] = node
        elif isinstance(node, ast.Assign):
            names.update({target.id: node for target in node.targets if isinstance(target, ast.Name)})
    return names


def instance_attributes(node: ast.ClassDef) -> set[str]:
    """Names assigned to `self` anywhere in a class: layers of a module."""
    stores = (sub for sub in ast.walk(node) if isinstance(sub, ast.Attribute) and isinstance(sub.ctx, ast.Store))
    return {store.attr for store in stores if isinstance(store.value, ast.Name) and store.value.id == "self"}


def exists(symbol: str, source: str) -> bool:
    """Whether `name` or `Class.name` is defined in the source."""
    head, _, member = symbol.partition(".")
    node = defined(ast.parse(source).body).get(head)
    if not member:
        return node is not None
    return isinstance(node, ast.ClassDef) and (member in defined(node.body) or member in instance_attributes(node))


ROWS = read_rows(TABLE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("row", ROWS, ids=[row.symbol for row in ROWS])
def test_symbol_exists_in_its_file(row: Row) -> None:
    assert row.term
    assert re.fullmatch(r"-|\d(, \d)*", row.equation)
    assert exists(row.symbol, (ROOT / row.file).read_text(encoding="utf-8")), f"{row.symbol} is not in {row.file}"


def test_every_equation_and_every_paper_module_is_on_the_map() -> None:
    equations = {int(number) for row in ROWS for number in re.findall(r"\d", row.equation)}
    assert equations == set(range(2, 10)), "eq 2 to 9 are the method"
    assert {Path(row.file).name for row in ROWS} >= PAPER_MODULES


def test_the_check_can_fail() -> None:
    source = "from a import f\nclass K:\n    x: int\n    def __init__(self):\n        self.layer = 1\n"
    assert exists("K", source)
    assert exists("K.x", source)
    assert exists("K.layer", source)
    assert not exists("f", source)
    assert not exists("K.other", source)
