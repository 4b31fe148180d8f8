"""Append-only file of finished work, one JSON object per line, from which an interrupted run resumes.

The first line holds the settings. A journal with other settings is refused, so that one result never mixes two runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

from omnisift.errors import UsageError
from omnisift.utils.jsonl import JsonLines


class Journal:
    """Append-only records by key; every record is on the disk before the next one is written.

    Args:
        path: The file; it is created where it does not exist.
        settings: What all records have in common, as plain data.
        key: Key of a record; by default its integer ``seed``.

    Raises:
        UsageError: The file holds records of other settings.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        key: Callable[[dict[str, Any]], Hashable] = lambda record: int(record["seed"]),
    ) -> None:
        self.path = path
        self.key = key
        self.records: dict[Any, dict[str, Any]] = {}
        self._lines = JsonLines(path, compact=True)
        plain = json.loads(json.dumps(settings))
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lines.append({"settings": plain})
        lines = [record for _, record in self._lines.records()]
        if not lines or not isinstance(lines[0], dict) or lines[0].get("settings") != plain:
            raise UsageError(f"{path} holds results of other settings; write to another file, or delete this one")
        # The work of a line that a crash cut off is repeated.
        self._lines.prepare()
        try:
            self.records.update({key(record): record for record in lines[1:] if "session" not in record})
        except (KeyError, TypeError, ValueError):
            raise UsageError(f"{path} holds a line that this command did not write; delete that line") from None

    def add(self, record: Mapping[str, Any]) -> None:
        """Append one record; several processes can share a journal."""
        self.records[self.key(dict(record))] = dict(record)
        self._lines.append(record)

    def note(self, entry: Mapping[str, Any]) -> None:
        """Append ``{"session": ...}``, the provenance of the next records.

        Raises:
            ValueError: ``entry`` has other keys.
        """
        if set(entry) != {"session"}:
            raise ValueError(f"a note is {{'session': ...}}, got {sorted(entry)}")
        self._lines.append(entry)
