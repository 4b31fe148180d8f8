"""Keys that one object of a row has twice: JSON allows them, and readers differ in which value they take."""

from __future__ import annotations

from typing import Any

from omnisift.errors import UsageError
from omnisift.utils.parsing import shown


class _Repeated(dict[str, Any]):
    """An object with a key that was given twice."""

    key = ""


def marked_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object with these keys and values, as `check_repeated` expects it."""
    row = dict(pairs)
    if len(row) == len(pairs):
        return row
    marked, names = _Repeated(row), [name for name, _ in pairs]
    marked.key = next(name for name in names if names.count(name) > 1)
    return marked


def check_repeated(row: Any, where: str) -> None:
    """Raise `UsageError` if ``row`` or an object inside it has a key twice."""
    values = [row]
    while values:
        value = values.pop()
        if isinstance(value, _Repeated):
            raise UsageError(f"{where}: the key {shown(value.key)} is given twice; keep one of them")
        if isinstance(value, (dict, list)):
            values += value.values() if isinstance(value, dict) else value
