"""`LiveImages`: the images of a stream at its moments, from frames that come one after another."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from omnisift.media.image import FrameScaler
from omnisift.media.sampling import TIME_TOLERANCE
from omnisift.media.units import TEMPORAL_PATCH


class LiveImages:
    """Receives frames in display order; keeps the one that is shown at each moment ``k / fps`` until it is taken.

    An image is known when the frame after it comes. The first image stands for the moments before it.
    """

    def __init__(self, fps: float, scaler: FrameScaler) -> None:
        """Start before the first frame.

        Args:
            fps: images per second.
            scaler: makes the images.
        """
        self._fps = fps
        self._scaler = scaler
        self._moment = 0  # the next one that has no image
        self._last: tuple[float, VideoFrame] | None = None
        self._ready: deque[npt.NDArray[np.uint8]] = deque()
        self.late = 0
        """Frames that came after one of a later time."""

    @property
    def ready(self) -> int:
        """Images that can be taken."""
        return len(self._ready)

    def add(self, time: float, frame: VideoFrame) -> None:
        """Take the frame that is shown from ``time`` on, in seconds."""
        self._scaler.orient(frame)
        if self._last is not None:
            if time <= self._last[0]:
                self.late += 1
                return
            self._store(time - TIME_TOLERANCE)
        self._last = (time, frame)

    def finish(self, end: float) -> None:
        """End the stream at ``end`` seconds: the last frame stands for the moments up to then, an even number."""
        if self._last is not None:
            count = max(TEMPORAL_PATCH, math.floor(end * self._fps + 0.5))
            count += count % TEMPORAL_PATCH
            self._store((count - 0.5) / self._fps)

    def take(self) -> npt.NDArray[np.uint8]:
        """Remove and return the first image, [H, W, 3] uint8."""
        return self._ready.popleft()

    def hold(self) -> bool:
        """Let the last frame stand for the next moment, as no frame comes in time; none is ready.

        Returns:
            Whether there is a last frame; without one the moment is left out.
        """
        if self._last is None:
            self._moment += 1
            return False
        self._store((self._moment + 0.5) / self._fps)
        return True

    def _store(self, until: float) -> None:
        """Keep the last frame for all moments before ``until``."""
        assert self._last is not None
        image: npt.NDArray[np.uint8] | None = None
        while self._moment / self._fps < until:
            image = self._scaler.scale(self._last[1]) if image is None else image
            self._ready.append(image)
            self._moment += 1
