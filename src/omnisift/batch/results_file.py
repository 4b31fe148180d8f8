"""The results: one JSON object a line, one line an item, appended and synced, so that any kill costs one item at most.

A kill in the middle of a line leaves a torn one: it has no end, so the next process drops it and does that item again.
Settings, lock and the clip in hand are in the file beside it (`omnisift.batch.run_lock`).
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
from omnisift.batch.run_lock import Claim
from omnisift.batch.summary import Summary
from omnisift.errors import EngineLost, UsageError


class Ledger:
    """The open results of a run; a context manager, which holds the lock. Left without a row, it leaves no file, unless
    an engine broke down over several clips: then what was in hand is kept beside it.

    Args:
        path: the ``.jsonl`` file, begun if it isn't there.
        settings: JSON-ready; a ledger that was begun with others is refused.
        retry_errors: drop the rows with an error, so that their items are done again.

    Raises:
        UsageError: another process has it, other settings, no folder for it, or a file that is no ledger.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], retry_errors: bool = False) -> None:
        if (path.exists() and not path.is_file()) or not path.parent.is_dir():
            raise UsageError(f"{path} is no file or lies in no folder; name a file in a folder that is there")
        self.path = path
        self.summary = Summary()
        self._questions: dict[str, str | None] = {}
        self._part = path.with_name(path.name + ".part")
        with _refusals(path):
            self.claim = Claim(path)
            try:
                self._open(json.loads(json.dumps(settings)), retry_errors)
            except BaseException:
                self.claim.close(forget=self.claim.settings is None)
                raise

    def _open(self, settings: dict[str, Any], retry_errors: bool) -> None:
        if not self.path.exists() or self.path.stat().st_size == 0:
            if self.claim.settings != settings:
                self.claim.settle(settings)
        elif self.claim.settings != settings:
            raise UsageError(f"{self.path} {_difference(self.claim.settings, settings)}")
        self._part.unlink(missing_ok=True)
        if retry_errors:
            self._drop_errors()
        self._end = 0
        for row, end in self._rows():
            self._note(row)
            self._end = end
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o644)
        os.ftruncate(self._file, self._end)
        os.fsync(self._file)
        _sync_folder(self.path.parent)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)
        empty = not self._questions
        if empty:
            self.path.unlink()
        # Over one clip an engine breaks behind that clip's row; over several, the next process must know of them.
        unknown = isinstance(error, EngineLost) and any(key not in self for key in self.claim.held)
        self.claim.close(forget=empty and not unknown, keep=unknown)

    def __contains__(self, key: str) -> bool:
        return key in self._questions

    def missing(self, items: Iterable[Item]) -> list[Item]:
        """Those without a row. `UsageError` if one has a row that answers another question."""
        found = []
        for item in items:
            if item.id not in self:
                found.append(item)
            elif self._questions[item.id] != item.question:
                raise UsageError(
                    f"{self.path} answers another question about {item.id}: {self._questions[item.id]!r}, not "
                    f"{item.question!r}; name another --out"
                )
        return found

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row and sync it. `UsageError` if the disk refuses; then the file is as it was.

        ``ValueError`` for an id that has a row: the caller's mistake, and nothing is written.
        """
        if row["id"] in self:
            raise ValueError(f"{row['id']} has a row already")
        line = _line(row)
        with _refusals(self.path):
            try:
                _write_all(self._file, line, self._end)
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, self._end)
                raise
        self._end += len(line)
        self._note(row)

    def _note(self, row: Mapping[str, Any]) -> None:
        if row["id"] in self:
            raise UsageError(f"{self.path} has two rows for {row['id']}; delete one, or name another --out")
        self._questions[row["id"]] = row.get("question")
        self.summary.add(row)

    def _rows(self) -> Iterator[tuple[dict[str, Any], int]]:
        """(row, where its line ends) of each whole line; nothing if there is no file."""
        if not self.path.exists():
            return
        end = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return  # torn by a kill
                end += len(line)
                yield _row(line, f"{self.path}:{number}"), end

    def _drop_errors(self) -> None:
        """A new file with the other rows takes this one's place. The lock, which is not on it, stays."""
        with self._part.open("wb") as file:
            for row, _ in self._rows():
                if "error" not in row:
                    file.write(_line(row))
            file.flush()
            os.fsync(file.fileno())
        self._part.replace(self.path)


def _line(row: Mapping[str, Any]) -> bytes:
    try:
        return (json.dumps(row, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # a file name that is not UTF-8: escaped, and the same name again when it is read
        return (json.dumps(row) + "\n").encode()


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row: dict[str, Any] = json.loads(line)
        Summary().add(row)
        return {"id": row["id"]} | row
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{where}: not a row of `omnisift run`; mend or delete it, or name another --out") from None


def _write_all(file: int, data: bytes, place: int) -> None:
    """All of ``data`` at ``place``: a full disk writes a part first, and refuses the next."""
    while data:
        written = os.pwrite(file, data, place)
        data, place = data[written:], place + written


def _difference(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> str:
    if old is None:
        return "was not begun by `omnisift run` (no settings beside it); name another --out"
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    said = ", ".join(f"{name} {old.get(name)!r} (now {new.get(name)!r})" for name in names)
    return f"was begun with other settings: {said}; give those, or name another --out"


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """What the system refuses becomes one line."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"can't write {path} ({error.strerror}); free space or rights, then run again") from error
