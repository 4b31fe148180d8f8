"""Pictures: their final size, turned upright, scaled before they are kept, and chosen while decoding."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from omnisift.errors import TooBig, UsageError
from omnisift.media.sampling import SLACK

MAX_ASPECT = 200


def smart_size(
    height: int, width: int, *, factor: int = 28, min_pixels: int = 128 * 784, max_pixels: int = 320 * 784
) -> tuple[int, int]:
    """Height and width for the model: multiples of ``factor``, the aspect kept, the area within the two limits.

    The rule of the Qwen processors, so that a processor with the same limits leaves the result as it is. The limits
    are in pixels of one image.

    Raises:
        TooBig: one side is over 200 times the other. UsageError: impossible limits.
    """
    if factor < 1 or not (factor * factor <= max_pixels and 0 < min_pixels <= max_pixels):
        raise UsageError(f"need 0 < min_pixels <= max_pixels and one {factor} x {factor} patch within max_pixels")
    if min(height, width) < 1:
        raise UsageError(f"a picture has at least one pixel, got {width} x {height}")
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise TooBig(f"picture of {width} x {height} is longer than {MAX_ASPECT} : 1; crop it first")

    def whole(side: float, rounding: Callable[[float], int]) -> int:
        return max(factor, rounding(side / factor) * factor)

    high, wide = whole(height, round), whole(width, round)
    if high * wide > max_pixels:
        # Divide by the shrinkage, don't multiply by its inverse: exact multiples would round to the other side.
        shrink = math.sqrt(height * width / max_pixels)
        high, wide = whole(height / shrink, math.floor), whole(width / shrink, math.floor)
    elif high * wide < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        high, wide = whole(height * grow, math.ceil), whole(width * grow, math.ceil)
    return high, wide


class ImageCollector:
    """Receives decoded frames in the order they are shown; keeps the one shown at each moment, scaled."""

    def __init__(self, moments: npt.NDArray[np.float64], factor: int, min_pixels: int, max_pixels: int) -> None:
        self._moments = moments
        self._limits = {"factor": factor, "min_pixels": min_pixels, "max_pixels": max_pixels}
        self._scaler = VideoReformatter()
        self._last: tuple[float, VideoFrame] | None = None
        self._size: tuple[int, int] | None = None
        self.images: npt.NDArray[np.uint8] | None = None
        """[N, H, W, 3]; None until the first frame."""
        self.times: list[float] = []
        self.late = 0

    @property
    def done(self) -> bool:
        """Whether each moment has its image."""
        return len(self.times) == len(self._moments)

    def see(self, time: float, frame: VideoFrame) -> None:
        """Take note of the frame that is shown from ``time`` on (seconds, media clock)."""
        if self._last is not None:
            if time <= self._last[0]:
                self.late += 1
                return
            self._take(before=time - SLACK)
        self._last = (time, frame)

    def finish(self) -> None:
        """No more frames: the last one stands for all moments that are left."""
        if self._last is not None:
            self._take(before=math.inf)
        self._last = None

    def _take(self, before: float) -> None:
        """The last frame stands for every open moment earlier than ``before``."""
        assert self._last is not None
        time, frame = self._last
        image: npt.NDArray[np.uint8] | None = None
        while not self.done and self._moments[len(self.times)] < before:
            image = self._scaled(frame) if image is None else image
            if self.images is None:
                self.images = np.empty((len(self._moments), *image.shape), np.uint8)
            self.images[len(self.times)] = image
            self.times.append(time)

    def _scaled(self, frame: VideoFrame) -> npt.NDArray[np.uint8]:
        """[H, W, 3] uint8 at the final size, upright. The first image fixes the size for the clip."""
        turns = round(float(getattr(frame, "rotation", 0)) / 90) % 4
        sideways = turns % 2 == 1
        height, width = (frame.width, frame.height) if sideways else (frame.height, frame.width)
        self._size = self._size or smart_size(height, width, **self._limits)
        high, wide = self._size[::-1] if sideways else self._size
        small = self._scaler.reformat(frame, width=wide, height=high, format="rgb24", interpolation="BICUBIC")
        return np.rot90(small.to_ndarray(), turns)
