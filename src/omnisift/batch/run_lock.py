"""The small file beside a ledger, ``OUT.run``: a lock, the settings of the run, and the clips in hand.

The lock ends with the process, however it ends. The clips in hand tell the next process what the last one died at: a
clip that kills the process each time (a crash inside a decoder, the system's out-of-memory killer) must not stop the
run for ever. Of several in hand at once each may be the one, so each is then done alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnisift.errors import UsageError

PATIENCE = 3
"""So many processes in a row must die at a clip before it is given up."""


class Claim:
    """The hold of one process on one ledger. Raises `UsageError` if another process has it."""

    def __init__(self, ledger: Path) -> None:
        self.path = ledger.with_name(ledger.name + ".run")
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        self._lock(ledger)
        first, _, rest = os.pread(self._file, os.fstat(self._file).st_size, 0).decode(errors="replace").partition("\n")
        self.settings: dict[str, Any] | None = _parsed(first)
        """Of the run that the file belongs to; None for a new one."""
        self._behind = len(first.encode()) + 1
        last = _parsed(rest.partition("\n")[0]) or {}
        self._suspects = _keys(last.get("hand"))
        self._deaths = int(last.get("deaths", 0)) + (len(self._suspects) == 1)
        self.held: tuple[str, ...] = ()
        """The clips in hand."""

    def settle(self, settings: Mapping[str, Any]) -> None:
        """Make this the file of a new run."""
        line = (json.dumps(settings) + "\n").encode()
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, line, 0)
        os.fsync(self._file)
        self.settings, self._behind, self._suspects = dict(settings), len(line), ()

    def suspected(self, key: str) -> bool:
        """Whether the last process died with this clip in hand, alone or among others."""
        return key in self._suspects

    def deaths(self, key: str) -> int:
        """How many processes in a row died with this clip alone in hand, up to now."""
        return self._deaths if self.suspected(key) else 0

    def hold(self, keys: Sequence[str]) -> None:
        """Note the clips in hand. Not synced: it must outlive the process, not the machine."""
        self.held = tuple(keys)
        deaths = self.deaths(keys[0]) if len(keys) == 1 else 0
        line = (json.dumps({"hand": list(keys), "deaths": deaths}) + "\n").encode() if keys else b""
        os.pwrite(self._file, line, self._behind)
        os.ftruncate(self._file, self._behind + len(line))

    def close(self, forget: bool = False, keep: bool = False) -> None:
        """The lock is free, and nothing in hand unless ``keep``. ``forget`` deletes the file of a run that has come to
        nothing."""
        if forget:
            self.path.unlink()
        elif not keep:
            self.hold(())
        os.close(self._file)

    def _lock(self, ledger: Path) -> None:
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The file may have been deleted between opening and locking: then the lock would keep nobody out.
            if not os.path.samestat(os.fstat(self._file), self.path.stat()):
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError):
            os.close(self._file)
            raise UsageError(f"another process is writing {ledger}; wait for it, or name another --out") from None


def _keys(hand: Any) -> tuple[str, ...]:
    return tuple(hand) if isinstance(hand, list) else ()


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
