"""The file ``OUT.run`` next to a results file: a lock, the settings of the run, and the items in progress.

The operating system releases the lock when the process ends, whatever ends it. The items in progress tell the next
process where the last one died: a clip that kills the process each time (a crash in a decoder, the system's
out-of-memory killer) must not block the run. If several items were in progress, any of them may be the cause, so the
next process does each of them alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnisift.errors import UsageError

MAX_CRASHES = 3
"""An item is skipped after so many processes in a row died on it."""


class RunLock:
    """The exclusive lock of one process on one results file.

    Args:
        results: path of the results file.

    Raises:
        UsageError: another process holds the lock.
    """

    def __init__(self, results: Path) -> None:
        self.path = results.with_name(results.name + ".run")
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        self._lock(results)
        # First line: the settings. Second line: what was in progress, empty after a clean end.
        first, _, rest = os.pread(self._file, os.fstat(self._file).st_size, 0).decode(errors="replace").partition("\n")
        self.settings: dict[str, Any] | None = _parse_object(first)
        """Settings of the run that the file belongs to; None for a new run."""
        self._settings_end = len(first.encode()) + 1
        last = _parse_object(rest.partition("\n")[0]) or {}
        # The keys "hand" and "deaths" are part of the file format.
        self._suspects = _keys(last.get("hand"))
        self._crashes = int(last.get("deaths", 0)) + (len(self._suspects) == 1)
        self.in_progress: tuple[str, ...] = ()
        """Ids of the items in progress."""

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Start a new run: replace the content of the file with ``settings``."""
        line = (json.dumps(settings) + "\n").encode()
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, line, 0)
        os.fsync(self._file)
        self.settings, self._settings_end, self._suspects = dict(settings), len(line), ()

    def is_suspect(self, key: str) -> bool:
        """Return whether the last process died while this item was in progress, alone or among others."""
        return key in self._suspects

    def crashes(self, key: str) -> int:
        """Return how many processes in a row died while this item alone was in progress."""
        return self._crashes if self.is_suspect(key) else 0

    def set_in_progress(self, keys: Sequence[str]) -> None:
        """Record the items in progress. Not synced to the disk: it must outlive the process, not the machine."""
        self.in_progress = tuple(keys)
        crashes = self.crashes(keys[0]) if len(keys) == 1 else 0
        line = (json.dumps({"hand": list(keys), "deaths": crashes}) + "\n").encode() if keys else b""
        os.pwrite(self._file, line, self._settings_end)
        os.ftruncate(self._file, self._settings_end + len(line))

    def close(self, delete: bool = False, keep_in_progress: bool = False) -> None:
        """Release the lock.

        Args:
            delete: delete the file, for a run without rows.
            keep_in_progress: leave the items in progress recorded, for the next process.
        """
        if delete:
            self.path.unlink()
        elif not keep_in_progress:
            self.set_in_progress(())
        os.close(self._file)

    def _lock(self, results: Path) -> None:
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The file may have been deleted between opening and locking; then the lock would exclude nobody.
            if not os.path.samestat(os.fstat(self._file), self.path.stat()):
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError):
            os.close(self._file)
            raise UsageError(f"another process is writing {results}; wait for it, or name another --out") from None


def _keys(value: Any) -> tuple[str, ...]:
    return tuple(value) if isinstance(value, list) else ()


def _parse_object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
