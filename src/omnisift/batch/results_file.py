"""The results of a run: one JSON object per item, one per line, appended and synced to the disk.

A kill costs at most the items in progress. A kill in the middle of a write leaves a line without its end; the next
process drops that line and does the item again. Settings, lock and items in progress are in a second file
(`omnisift.batch.run_lock`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from omnisift.batch.items import Item
from omnisift.batch.run_lock import RunLock
from omnisift.batch.summary import Summary
from omnisift.errors import EngineLost, UsageError

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
        UsageError: another process writes the file, it was started with other settings, its folder does not exist, or
            it is not a results file.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], retry_errors: bool = False) -> None:
        _check_path(path)
        self.path = path
        self.summary = Summary()
        self._questions: dict[str, str | None] = {}
        self._part = path.with_name(path.name + ".part")
        with _write_errors(path):
            self.lock = RunLock(path)
            try:
                self._open(_with_new_names(json.loads(json.dumps(settings))), retry_errors)
            except BaseException:
                self.lock.close(delete=self.lock.settings is None)
                raise

    def _open(self, settings: dict[str, Any], retry_errors: bool) -> None:
        # Compare the settings, or write them if the run is new.
        started_with = None if self.lock.settings is None else _with_new_names(self.lock.settings)
        if not self.path.exists() or self.path.stat().st_size == 0:
            if started_with != settings:
                self.lock.write_settings(settings)
        elif started_with != settings:
            raise UsageError(f"{self.path} {_difference(started_with, settings)}")
        self._part.unlink(missing_ok=True)
        if retry_errors:
            self._drop_errors()
        # Read the rows, then cut off a line without its end.
        self._end = 0
        for row, end in self._rows():
            self._record(row)
            self._end = end
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)
        os.ftruncate(self._file, self._end)
        os.fsync(self._file)
        _sync_folder(self.path.parent)

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)
        empty = not self._questions
        if empty:
            self.path.unlink()
        # An engine that died on one clip has left that clip's row. After several clips without rows, the next process
        # must know which ones they were.
        unknown = isinstance(error, EngineLost) and any(key not in self for key in self.lock.in_progress)
        self.lock.close(delete=empty and not unknown, keep_in_progress=unknown)

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
            UsageError: the row can't be written; the file is then as before.
            ValueError: the id has a row already; nothing is written.
        """
        if row["id"] in self:
            raise ValueError(f"{row['id']} has a row already")
        line = _encode(row)
        with _write_errors(self.path):
            try:
                _write_all(self._file, line, self._end)
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, self._end)
                raise
        self._end += len(line)
        self._record(row)

    def _record(self, row: Mapping[str, Any]) -> None:
        if row["id"] in self:
            raise UsageError(f"{self.path} has two rows for {row['id']}; delete one, or name another --out")
        self._questions[row["id"]] = row.get("question")
        self.summary.add(row)

    def _rows(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield each row with the offset of its end in the file; nothing if there is no file."""
        if not self.path.exists():
            return
        end = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return  # cut off by a kill
                end += len(line)
                yield _decode(line, f"{self.path}:{number}"), end

    def _drop_errors(self) -> None:
        """Replace the file with one that holds the other rows. The lock is on another file and stays."""
        with self._part.open("wb") as file:
            for row, _ in self._rows():
                if "error" not in row:
                    file.write(_encode(row))
            file.flush()
            os.fsync(file.fileno())
        self._part.replace(self.path)


def _check_path(path: Path) -> None:
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a .jsonl file in it")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a regular file; name a .jsonl file")
    if not path.parent.is_dir():
        raise UsageError(f"folder {path.parent} does not exist; create it first")
    if not path.exists() and path.suffix not in (".jsonl", ""):
        raise UsageError(f"results are JSON lines, got {path.name}; name a file that ends in .jsonl")


def _with_new_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {RENAMED_SETTINGS.get(name, name): value for name, value in settings.items()}


def _encode(row: Mapping[str, Any]) -> bytes:
    try:
        return (json.dumps(row, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # a file name that is not UTF-8: escaped, it is read back as the same name
        return (json.dumps(row) + "\n").encode()


def _decode(line: bytes, location: str) -> dict[str, Any]:
    try:
        row: dict[str, Any] = json.loads(line)
        Summary().add(row)
        return {"id": row["id"]} | row
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(
            f"{location}: not a row of `omnisift run`; correct or delete it, or name another --out"
        ) from None


def _write_all(file: int, data: bytes, offset: int) -> None:
    """Write all of ``data``: on a full disk the first call may write a part, and the next one fails."""
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written


def _difference(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> str:
    if old is None:
        return "was not started by `omnisift run` (it has no settings file); name another --out"
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    changes = ", ".join(f"{name} {old.get(name)!r} (now {new.get(name)!r})" for name in names)
    return f"was started with other settings: {changes}; give those, or name another --out"


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Turn errors of the operating system into one line."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"can't write {path} ({error.strerror}); free disk space or fix the permissions, then run again"
        ) from error
