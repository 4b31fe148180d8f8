"""A file of finished work, one JSON object a line, that a broken run can go on with.

The first line holds the settings. A journal with other settings is refused, so that one result never mixes two runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

from omnisift.errors import UsageError


class Journal:
    """Append-only records, each known by its ``key`` (by default its integer ``seed``). Every record is on the disk
    before the next one begins."""

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        key: Callable[[dict[str, Any]], Hashable] = lambda record: int(record["seed"]),
    ) -> None:
        """Open or begin. `UsageError` if the file was begun with other settings."""
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
            raise UsageError(f"{path} was begun with other settings; write to another place, or delete it")
        self._read(lines)

    def _read(self, lines: list[str]) -> None:
        """A last line without its end was cut off by a crash: it is dropped, and its clip is done again."""
        whole = [line for line in lines if line.endswith("\n")]
        if len(whole) < len(lines):
            self.path.write_text("".join(whole), encoding="utf-8")
        for line in whole[1:]:
            record = json.loads(line)
            if not record.keys() & {"session"}:
                self.records[self.key(record)] = record

    def add(self, record: Mapping[str, Any]) -> None:
        """Append one record. One unbuffered write, so that several processes may share a journal."""
        self.records[self.key(dict(record))] = dict(record)
        self._write(record)

    def note(self, what: Mapping[str, Any]) -> None:
        """Append ``{"session": ...}``: where and with what the next records are made. No record by itself."""
        if set(what) != {"session"}:
            raise ValueError(f"a note is {{'session': ...}}, got {sorted(what)}")
        self._write(what)

    def _write(self, record: Mapping[str, Any]) -> None:
        with self.path.open("ab", buffering=0) as file:
            file.write((json.dumps(record, separators=(",", ":")) + "\n").encode())
