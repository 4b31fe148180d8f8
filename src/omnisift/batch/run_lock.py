"""The file ``OUT.run`` next to a results file: a lock, the settings of the run, and the items in progress.

The operating system releases the lock when the process ends, whatever ends it. The items in progress tell the next
process where the last one died: a clip that kills the process each time must not block the run. If several items were
in progress, any of them may be the cause, so the next process does each of them alone.

Why a process died is known in part. A crash (SIGSEGV, SIGABRT, SIGBUS, SIGILL, SIGFPE) leaves Python's traceback at the
end of the file, and the kernel counts what its out-of-memory killer ends. Any other death may have come from outside,
for example from a scheduler that needs the machine, so that an item is blamed for it much later.
"""

from __future__ import annotations

import faulthandler
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omnisift.errors import UsageError
from omnisift.utils.atomic_io import lock_writer

MAX_CRASHES = 3
"""An item is skipped after so many processes in a row crashed on it, or were ended for their memory."""
MAX_DEATHS = 10
"""An item is skipped after so many processes in a row died on it, whatever ended them."""
_CRASHED = b"Fatal Python error"
"""Start of what `faulthandler` writes."""
_MAX_BYTES = 1 << 26
_VMSTAT, _BOOT = Path("/proc/vmstat"), Path("/proc/sys/kernel/random/boot_id")


class RunLock:
    """The exclusive lock of one process on one results file.

    Args:
        path: the file.
        results: the results file as the user named it, for messages.

    Raises:
        UsageError: another process holds the lock, or another program wrote a file of this name.
    """

    def __init__(self, path: Path, results: Path) -> None:
        self.path, self._results = path, results
        self._file, created = _open(path)
        self.settings: dict[str, Any] | None = None
        """Settings of the run that the file belongs to; None for a new run."""
        self.in_progress: tuple[str, ...] = ()
        """Ids of the items in progress."""
        self._settings_end, self._deaths, self._crashes = 0, 0, 0
        self._suspects: tuple[str, ...] = ()
        self._crash_file: int | None = None
        try:
            self._check_size()
            lock_writer(self._file, path, results)
            self._read()
        except BaseException:
            if created:
                path.unlink(missing_ok=True)
            os.close(self._file)
            raise

    def _check_size(self) -> None:
        state = os.fstat(self._file)
        if not stat.S_ISREG(state.st_mode) or state.st_size > _MAX_BYTES:
            raise self._foreign()

    def _read(self) -> None:
        """First line: the settings. Second line: what was in progress, empty after a clean end. Then a traceback."""
        content = os.pread(self._file, _MAX_BYTES, 0)
        if not content:
            return
        first, end, rest = content.partition(b"\n")
        self.settings = _parse_object(first)
        if self.settings is None or not end:
            raise self._foreign()
        self._settings_end = len(first) + 1
        second, _, rest = rest.partition(b"\n")
        last = _parse_object(second)
        if last is not None:
            self._read_last(last, crashed=rest.startswith(_CRASHED))

    def _read_last(self, last: dict[str, Any], crashed: bool) -> None:
        # The keys "hand" and "deaths" are part of the file format; the others came later.
        keys, deaths, crashes = last.get("hand"), last.get("deaths", 0), last.get("crashes", 0)
        numbers = all(type(number) is int and number >= 0 for number in (deaths, crashes))
        if not numbers or not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise UsageError(f"{self.path}:2: not what `omnisift run` writes; delete this line")
        self._suspects = tuple(keys)
        alone = len(keys) == 1
        self._deaths = deaths + alone
        self._crashes = crashes + (alone and (crashed or _ended_for_memory(last.get("oom_kills"))))

    def write_settings(self, settings: Mapping[str, Any]) -> None:
        """Start a new run: replace the content of the file with ``settings``.

        Raises:
            UsageError: another program wrote the file, or it can't be written.
        """
        if self.settings and not self.settings.keys() & settings.keys():
            raise self._foreign()
        line = (json.dumps(settings) + "\n").encode()
        with write_errors(self._results):
            os.ftruncate(self._file, 0)
            if os.pwrite(self._file, line, 0) < len(line):
                os.ftruncate(self._file, 0)
                raise OSError(None, "no space left")
            os.fsync(self._file)
        self.settings, self._settings_end, self._suspects = dict(settings), len(line), ()

    def is_suspect(self, key: str) -> bool:
        """Return whether the last process died while this item was in progress, alone or among others."""
        return key in self._suspects

    def crashes(self, key: str) -> int:
        """Return how many processes in a row died while this item alone was in progress."""
        return self._deaths if self.is_suspect(key) else 0

    def is_deadly(self, key: str) -> bool:
        """Return whether so many processes died on this item that it is skipped."""
        return self.is_suspect(key) and (self._crashes >= MAX_CRASHES or self._deaths >= MAX_DEATHS)

    def set_in_progress(self, keys: Sequence[str]) -> None:
        """Record the items in progress. Not synced to the disk: it must outlive the process, not the machine.

        Raises:
            UsageError: the file can't be written.
        """
        self.in_progress = tuple(keys)
        known = len(keys) == 1 and self.is_suspect(keys[0])
        record = {
            "hand": list(keys),
            "deaths": self._deaths if known else 0,
            "crashes": self._crashes if known else 0,
            "oom_kills": _oom_kills(),
        }
        line = (json.dumps(record) + "\n").encode() if keys else b""
        with write_errors(self._results):
            os.pwrite(self._file, line, self._settings_end)
            os.ftruncate(self._file, self._settings_end + len(line))
            if keys:
                self._record_crashes()

    def close(self, delete: bool = False, keep_in_progress: bool = False) -> None:
        """Release the lock.

        Args:
            delete: delete the file, for a run without rows.
            keep_in_progress: leave the items in progress recorded, for the next process.
        """
        try:
            if self._crash_file is not None:
                faulthandler.disable()
                os.close(self._crash_file)
            if delete:
                self.path.unlink()
            elif not keep_in_progress:
                self.set_in_progress(())
        finally:
            os.close(self._file)

    def _record_crashes(self) -> None:
        """Have a crash of this process written to the end of the file, unless its traceback goes elsewhere already."""
        if self._crash_file is None and not faulthandler.is_enabled():
            self._crash_file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            faulthandler.enable(self._crash_file, all_threads=False)

    def _foreign(self) -> UsageError:
        return UsageError(
            f"{self.path} was not written by `omnisift run`, which keeps its settings under this name; move that file, "
            "or name another --out"
        )


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn errors of the operating system into one line.

    Args:
        path: the results file as the user named it.

    Raises:
        UsageError: the block raised an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"can't write {path} ({error.strerror}); free disk space or fix the permissions, then run again"
        ) from error


def _open(path: Path) -> tuple[int, bool]:
    """The open file, and whether it is new. A pipe doesn't block."""
    flags = os.O_RDWR | os.O_NONBLOCK
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644), True
    except FileExistsError:
        return os.open(path, flags), False


def _oom_kills() -> str | None:
    """The boot of this machine and how many processes its out-of-memory killer has ended; None where it is not told."""
    with suppress(OSError, KeyError, ValueError):
        counts = dict(line.split() for line in _VMSTAT.read_text().splitlines())
        return f"{_BOOT.read_text().strip()} {counts['oom_kill']}"
    return None


def _ended_for_memory(before: Any) -> bool:
    """Whether the out-of-memory killer has ended a process, perhaps another one, since ``before`` was recorded."""
    now = _oom_kills()
    return isinstance(before, str) and now is not None and now != before and now.split()[0] == before.split(" ")[0]


def _parse_object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
