"""`WorkBudget`: bounds on what reading one file may cost, whatever its size on disk."""

from __future__ import annotations

import math
import time

from omnisift.errors import MediaTimeout, TooBig, UsageError

MAX_DECODED_PIXELS = 2_000_000_000_000
"""Default: four hours of 1920 x 1080 at 60 frames per second, if every frame must be decoded."""
READ_TIMEOUT = 3600.0
"""Default, in seconds."""


class WorkBudget:
    """What reading one file may still cost; the time starts with the object.

    A few bytes can stand for a large image that changes nothing, so neither the size of a file nor the number of
    sampled images bounds the work.
    """

    def __init__(self, max_decoded_pixels: int = MAX_DECODED_PIXELS, seconds: float = READ_TIMEOUT) -> None:
        """Start with a full budget.

        Args:
            max_decoded_pixels: pixels of all decoded frames together.
            seconds: wall time.
        """
        self._max_decoded_pixels = max_decoded_pixels
        self._decoded_pixels = 0
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._paused_at = math.nan

    def check_time(self) -> None:
        """Raise `MediaTimeout` if the time is over."""
        if time.monotonic() > self._deadline:
            raise MediaTimeout(
                f"can't be read within read_timeout={self._seconds:g} s; give a shorter or smaller file, or raise it"
            )

    def pause(self) -> None:
        """Stop counting the time until `resume`."""
        self._paused_at = time.monotonic()

    def resume(self) -> None:
        """Go on counting the time after `pause`."""
        self._deadline += time.monotonic() - self._paused_at

    def spend(self, pixels: int) -> None:
        """Count pixels that are about to be decoded. Raises `TooBig` if they are too many."""
        self.check_pixels(pixels)
        self._decoded_pixels += pixels

    def check_pixels(self, pixels: int) -> None:
        """Raise `TooBig` if so many further pixels are too many; they are not counted."""
        if self._decoded_pixels + pixels > self._max_decoded_pixels:
            raise TooBig(
                f"more than max_decoded_pixels={self._max_decoded_pixels} must be decoded; give a shorter or smaller "
                "file, or raise it"
            )


def check_budget(max_decoded_pixels: int, read_timeout: float) -> None:
    """Raise `UsageError` for limits that are out of range."""
    if max_decoded_pixels < 1:
        raise UsageError(f"max_decoded_pixels must be at least 1, got {max_decoded_pixels}")
    if math.isnan(read_timeout) or read_timeout <= 0:
        raise UsageError(f"read_timeout must be above 0 seconds, got {read_timeout}")
