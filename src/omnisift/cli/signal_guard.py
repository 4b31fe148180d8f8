"""Ctrl-C and SIGTERM during a long run: first the clip in hand is finished, a second one drops it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class SignalGuard:
    """What a signal does. Outside of `gently` it ends the command at once, with exit code 128 + signal."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet, self._gentle = quiet, False
        self.signal: int | None = None
        """The first signal that came."""

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.signal is not None

    @property
    def code(self) -> int:
        """Exit code of a stopped run: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self.signal or 0)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Both signals come here during the block; what they did before comes back after it."""
        before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._install()
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def gently(self) -> Iterator[None]:
        """A clip may be in hand during the block. Takes the signals anew: Ray has put its own handler in our place."""
        self._install()
        self._gentle = True
        try:
            yield
        finally:
            self._gentle = False

    def _install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._come)

    def _come(self, number: int, _frame: FrameType | None) -> None:
        first, self.signal = self.signal is None, self.signal or number
        if not (self._gentle and first):
            raise SystemExit(self.code)
        if not self._quiet:  # straight to the file: the console may be in the middle of a line
            os.write(2, b"\nstopping after the clip in hand; once more drops it\n")
