"""JSON lines: append-only files that survive a kill, atomic files, and text of users."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from omnisift.errors import UsageError
from omnisift.utils.atomic_io import atomic_file, is_same_file, lock_writer, sync_folder, try_lock

_BLOCK = 1 << 16
_LOCK_SECONDS = 10.0
"""How long one write waits for that of another process."""
PairsHook = Callable[[list[tuple[str, Any]]], Any]


class JsonLines:
    """An append-only file with one JSON object per line.

    A kill in the middle of a write leaves a last line without its end: `records` skips it, and `prepare` cuts it off.
    Several processes can append to a file, under any of its names; `hold` makes this process the only writer.

    Args:
        path: the file; its folder must exist.
        compact: whether lines have no space after ``,`` and ``:``.
    """

    def __init__(self, path: Path, compact: bool = False) -> None:
        self.path = path
        self._compact = compact
        self._held: FileIO | None = None
        self._size = 0

    def records(self) -> Iterator[tuple[int, Any]]:
        """Yield the line number and the value of each complete line; nothing if there is no file.

        Raises:
            UsageError: a line is not JSON.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.endswith(b"\n") and line.strip():
                    yield number, parse_json(line, f"{self.path}:{number}")

    def hold(self) -> None:
        """Open the file, which is created if there is none, and keep it locked until `close`.

        Raises:
            UsageError: another process holds it, under this or another name, or the file system has no locks.
            OSError: the file can't be written.
        """
        file = _opened(self.path)
        try:
            lock_writer(file.fileno(), self.path, self.path)
        except UsageError:
            file.close()
            raise
        self._held, self._size = file, file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Release the lock of `hold`."""
        if self._held is not None:
            self._held.close()
        self._held = None

    @property
    def is_unchanged(self) -> bool:
        """Whether the file is held, and its path still names it."""
        return self._held is not None and is_same_file(self._held.fileno(), self.path)

    def check(self) -> None:
        """Check that nothing but `append` changed the file since `hold`.

        Raises:
            UsageError: it was deleted, replaced or changed by another program.
        """
        if self._held is None:
            return
        advice = "rows are missing from it; run again, and leave the file alone while a command writes it"
        if not self.is_unchanged:
            raise UsageError(f"{self.path} was deleted or replaced while it was written, so {advice}")
        if os.fstat(self._held.fileno()).st_size != self._size:
            raise UsageError(f"{self.path} was changed by another program while it was written, so {advice}")

    def prepare(self) -> None:
        """Create the file if there is none, and cut off a last line without its end.

        Raises:
            OSError: the file can't be written.
        """
        with self._locked() as file:
            file.truncate(_complete_size(file))
            os.fsync(file.fileno())
            self._size = file.seek(0, os.SEEK_END)
        sync_folder(self.path.parent)

    def append(self, record: Mapping[str, Any]) -> None:
        """Append one line and sync it to the disk.

        Raises:
            OSError: the line can't be written; the file is then as before.
            UsageError: as `check`, for a file that is held.
        """
        with self._locked() as file:
            end = file.seek(0, os.SEEK_END)
            data = _encode(record, self._compact)
            try:
                _write_all(file, data)
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise
            self._size += len(data)
            self.check()

    @contextmanager
    def _locked(self) -> Iterator[FileIO]:
        """The file that is held, or the file opened and locked for one write."""
        if self._held is not None:
            yield self._held
            return
        with _opened(self.path) as file:
            _wait_for_lock(file, self.path)
            yield file


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write a complete file atomically, one JSON object per line.

    Args:
        path: the file to create or replace.
        records: its lines.
    """
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        file.writelines(_encode(record) for record in records)


def parse_jsonl(text: str, source: object) -> Iterator[tuple[int, Any]]:
    """Parse text with one JSON value per line; the last line may lack its end, and empty lines are skipped.

    Args:
        text: the content of a file.
        source: its path, for the message.

    Yields:
        Line number, from 1, and value.

    Raises:
        UsageError: a line is not JSON.
    """
    # Not splitlines: a JSON text may contain U+2028, at which splitlines would cut.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, parse_json(line, f"{source}:{number}")


def parse_json(
    text: str | bytes, location: str, advice: str = "correct or delete the line", hook: PairsHook | None = None
) -> Any:
    """Parse one JSON value that a user or another program may have written.

    Args:
        text: the value.
        location: file and line, for the message.
        advice: what to do about text that is not JSON.
        hook: makes an object of its keys and values, of which JSON allows several with one key.

    Raises:
        UsageError: it is not JSON, is nested too deeply, or holds a number of more digits than Python reads.
    """
    try:
        return json.loads(text, object_pairs_hook=hook)
    except RecursionError:
        reason = "nested too deeply"
    except json.JSONDecodeError as error:
        reason = error.msg
    except UnicodeDecodeError:
        reason = "not UTF-8"
    except ValueError:
        reason = "a number with too many digits"
    raise UsageError(f"{location}: not JSON ({reason}); {advice}")


def _encode(record: Mapping[str, Any], compact: bool = False) -> bytes:
    separators = (",", ":") if compact else (", ", ": ")
    try:
        return (json.dumps(record, ensure_ascii=False, separators=separators) + "\n").encode()
    except UnicodeEncodeError:  # a file name that is not UTF-8: escaped, it is read back as the same name
        return (json.dumps(record, separators=separators) + "\n").encode()


def _opened(path: Path) -> FileIO:
    return path.open("a+b", buffering=0)


def _wait_for_lock(file: FileIO, path: Path) -> None:
    end = time.monotonic() + _LOCK_SECONDS
    try:
        while not try_lock(file.fileno()):
            if time.monotonic() > end:
                raise UsageError(f"another process is writing {path}; wait for it, or name another file")
            time.sleep(0.01)
    except OSError:  # no locks here; a line is one write, so that lines still don't mix
        return


def _write_all(file: FileIO, data: bytes) -> None:
    """Write all of ``data``: on a full disk the first call may write a part, and the next one fails."""
    while data:
        data = data[file.write(data) :]


def _complete_size(file: FileIO) -> int:
    """Bytes up to the end of the last complete line, searched from the end."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = file.seek(max(0, end - _BLOCK))
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
