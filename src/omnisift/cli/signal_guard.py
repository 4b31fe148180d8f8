"""Ctrl-C and SIGTERM during a long run: the first signal finishes the current clip, the second drops it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class SignalGuard:
    """Signal handler; outside of `finishing_clip` a signal ends the command at once, with exit code 128 + signal."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet, self._finishing = quiet, False
        self.signal: int | None = None
        """The first signal received."""

    def __call__(self) -> bool:
        """Return whether to stop."""
        return self.signal is not None

    @property
    def code(self) -> int:
        """Exit code of a stopped run: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self.signal or 0)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Handle both signals in the block; the earlier handlers are restored after it."""
        before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._install()
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def finishing_clip(self) -> Iterator[None]:
        """Finish the current clip on a signal in the block. Installs the handler again, since Ray replaces it."""
        self._install()
        self._finishing = True
        try:
            yield
        finally:
            self._finishing = False

    def _install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        first, self.signal = self.signal is None, self.signal or number
        if not (self._finishing and first):
            raise SystemExit(self.code)
        if not self._quiet:  # write directly: the console may be in the middle of a line
            os.write(2, b"\nstopping after the current clip; a second signal drops it\n")
