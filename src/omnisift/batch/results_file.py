"""The results of a run: one JSON object per item, one per line, appended and synced to the disk.

A kill costs at most the items in progress. A kill in the middle of a write leaves a line without its end; the next
process drops that line and does the item again. Settings, lock and items in progress are in a second file
(`omnisift.batch.run_lock`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from omnisift.batch.items import Item
from omnisift.batch.run_lock import RunLock, write_errors
from omnisift.batch.summary import Summary
from omnisift.budget import DEFAULT_RETAIN
from omnisift.errors import EngineLost, UsageError
from omnisift.utils.jsonl import JsonLines, write_jsonl

RENAMED_SETTINGS = {"attn": "attn_implementation", "together": "batch_size"}
"""Old name of a setting -> its name now: runs that were started under the old name are resumed."""


class ResultsFile:
    """The open results of a run; a context manager that holds the lock.

    If no row was written, leaving the context deletes both files, except after an engine died on several clips: then
    the items in progress stay recorded.

    Args:
        path: the ``.jsonl`` file, created if it does not exist.
        settings: JSON-ready settings of the run; a file that was started with other settings is refused.
        retry_errors: drop the rows with an error, so that their items are done again.

    Raises:
        UsageError: another process writes the file, under this name or a link to it; it was started with other
            settings; its folder does not exist; or it is not a results file.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], retry_errors: bool = False) -> None:
        _check_path(path)
        self.path = path
        self.summary = Summary()
        self._questions: dict[str, str | None] = {}
        # A symbolic link stays: the file that it names is written.
        self._file = Path(os.path.realpath(path))
        self._lines = JsonLines(self._file)
        self._is_new = not self._file.exists()
        self._deletable = False
        with write_errors(path):
            self.lock = RunLock(_lock_path(path, self._file), path)
            try:
                self._lines.hold()
                self._open(_comparable(json.loads(json.dumps(settings))), retry_errors)
            except BaseException:
                is_new = self.lock.settings is None
                self._close(delete=self._is_new, delete_settings=is_new, keep_in_progress=not is_new)
                raise

    def _open(self, settings: dict[str, Any], retry_errors: bool) -> None:
        # Compare the settings, or write them if the run is new.
        started_with = None if self.lock.settings is None else _comparable(self.lock.settings)
        if self._file.stat().st_size == 0:
            if started_with != settings:
                self.lock.write_settings(settings)
        elif started_with != settings:
            raise UsageError(f"{self.path} {_difference(started_with, settings)}")
        if retry_errors:
            self._drop_errors()
        for row in self._rows():
            self._record(row)
        self._lines.prepare()
        self._deletable = self._is_new or started_with is not None

    def _drop_errors(self) -> None:
        """Replace the file by one without the rows that have an error. The first lock is on another file and stays."""
        rows = list(self._rows())
        kept = [row for row in rows if "error" not in row]
        if len(kept) == len(rows):
            return
        if self._file.stat().st_nlink > 1:
            raise UsageError(
                f"{self.path} has another name (a hard link), under which its errors would stay; delete one of the two"
            )
        write_jsonl(self._file, kept)
        self._lines.close()
        self._lines.hold()

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        empty = not self._questions
        # An engine that died on one clip has left that clip's row. After several clips without rows, the next process
        # must know which ones they were.
        unknown = isinstance(error, EngineLost) and any(key not in self for key in self.lock.in_progress)
        try:
            if error is None:
                self._lines.check()
        finally:
            with write_errors(self.path):
                self._close(empty and self._deletable, delete_settings=empty and not unknown, keep_in_progress=unknown)

    def _close(self, delete: bool, delete_settings: bool, keep_in_progress: bool) -> None:
        """Delete what is to be deleted, and release both locks."""
        try:
            if delete and self._lines.is_unchanged:
                self._file.unlink()
        finally:
            self._lines.close()
            self.lock.close(delete_settings, keep_in_progress)

    def __contains__(self, key: str) -> bool:
        return key in self._questions

    def missing(self, items: Iterable[Item]) -> list[Item]:
        """Return the items without a row.

        Raises:
            UsageError: an item has a row for another question.
        """
        missing = []
        for item in items:
            if item.id not in self:
                missing.append(item)
            elif self._questions[item.id] != item.question:
                raise UsageError(
                    f"{self.path} answers another question about {item.id}: {self._questions[item.id]!r}, not "
                    f"{item.question!r}; name another --out"
                )
        return missing

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row and sync it to the disk.

        Raises:
            UsageError: the row can't be written; the file is then as before. Or the file was deleted, replaced or
                changed by another program.
            ValueError: the id has a row already; nothing is written.
        """
        if row["id"] in self:
            raise ValueError(f"{row['id']} has a row already")
        with write_errors(self.path):
            self._lines.append(row)
        self._record(row)

    def _record(self, row: Mapping[str, Any]) -> None:
        if row["id"] in self:
            raise UsageError(f"{self.path} has two rows for {row['id']}; delete one, or name another --out")
        self._questions[row["id"]] = row.get("question")
        self.summary.add(row)

    def _rows(self) -> Iterator[dict[str, Any]]:
        for number, row in self._lines.records():
            yield _checked(row, f"{self.path}:{number}")


def _check_path(path: Path) -> None:
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a .jsonl file in it")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a regular file; name a .jsonl file")
    if not path.parent.is_dir():
        raise UsageError(f"folder {path.parent} does not exist; create it first")
    if not path.exists() and path.suffix not in (".jsonl", ""):
        raise UsageError(f"results are JSON lines, got {path.name}; name a file that ends in .jsonl")


def _comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under the names of now, with the default fraction where no budget was given."""
    renamed = {RENAMED_SETTINGS.get(name, name): value for name, value in settings.items()}
    budget = [renamed.get(name) for name in ("retain", "retain_video", "retain_audio", "tokens")]
    if "retain" in renamed and not any(budget):
        renamed["retain"] = DEFAULT_RETAIN
    return renamed


def _lock_path(path: Path, file: Path) -> Path:
    """``OUT.run`` next to ``file``; next to ``path``, a link to it, where an earlier version wrote it."""
    at_file, at_link = (one.with_name(one.name + ".run") for one in (file, path))
    return at_link if at_link.exists() and not at_file.exists() else at_file


def _checked(row: Any, location: str) -> dict[str, Any]:
    try:
        Summary().add(row)
        hits = row.get("hits", [])
        texts = [row["id"], *hits, *row.get("error", {}).values()]
        numbers = [row["seconds"]["total"], *row.get("tokens", {}).values()]
        right = isinstance(hits, list) and all(isinstance(text, str) for text in texts)
        right &= all(_is_amount(number) for number in numbers)
    except (ValueError, KeyError, TypeError, AttributeError):
        right = False
    if not right:
        raise UsageError(f"{location}: not a row of `omnisift run`; correct or delete it, or name another --out")
    checked: dict[str, Any] = row
    return checked


def _is_amount(number: Any) -> bool:
    return isinstance(number, (int, float)) and 0 <= number < 1e15 and math.isfinite(number)


def _difference(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> str:
    if old is None:
        return "was not started by `omnisift run` (it has no settings file); name another --out"
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    changes = ", ".join(f"{name} {old.get(name)!r} (now {new.get(name)!r})" for name in names)
    return f"was started with other settings: {changes}; give those, or name another --out"
