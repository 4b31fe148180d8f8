"""Signals: SIGTERM and SIGHUP end any command cleanly; during a long run the first one finishes the current clip."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """In the block, SIGTERM and SIGHUP raise `SystemExit` with 128 + signal, so that temporary files are deleted.

    A second signal ends the process at once. Handlers that are set already stay, such as that of nohup.
    """
    owner = os.getpid()

    def end(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != owner:  # a forked process has nothing to clean up
            os.kill(os.getpid(), number)
        raise SystemExit(128 + number)

    handled = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        handled = []
    try:
        for number in handled:
            signal.signal(number, end)
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


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
