"""Append-only file of finished work, one JSON object per line, from which an interrupted run resumes.

The first line holds the settings. A journal with other settings is refused, so that one result never mixes two runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

from omnisift.errors import UsageError


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
        plain = json.loads(json.dumps(settings))
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"settings": plain}) + "\n", encoding="utf-8")
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        if not lines or json.loads(lines[0]).get("settings") != plain:
            raise UsageError(f"{path} holds results of other settings; write to another file, or delete this one")
        self._read(lines)

    def _read(self, lines: list[str]) -> None:
        # A last line without a newline was cut off by a crash: drop it, so that its work is repeated.
        complete = [line for line in lines if line.endswith("\n")]
        if len(complete) < len(lines):
            self.path.write_text("".join(complete), encoding="utf-8")
        for line in complete[1:]:
            record = json.loads(line)
            if not record.keys() & {"session"}:
                self.records[self.key(record)] = record

    def add(self, record: Mapping[str, Any]) -> None:
        """Append one record in one unbuffered write, so that several processes can share a journal."""
        self.records[self.key(dict(record))] = dict(record)
        self._write(record)

    def note(self, entry: Mapping[str, Any]) -> None:
        """Append ``{"session": ...}``, the provenance of the next records.

        Raises:
            ValueError: ``entry`` has other keys.
        """
        if set(entry) != {"session"}:
            raise ValueError(f"a note is {{'session': ...}}, got {sorted(entry)}")
        self._write(entry)

    def _write(self, record: Mapping[str, Any]) -> None:
        with self.path.open("ab", buffering=0) as file:
            file.write((json.dumps(record, separators=(",", ":")) + "\n").encode())
