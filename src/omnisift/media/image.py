"""Images: their final size, rotation, scaling, and which decoded frame stands for each sampled moment."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from omnisift.errors import TooBig, UsageError
from omnisift.media.sampling import TIME_TOLERANCE

MAX_ASPECT = 200


def smart_size(
    height: int, width: int, *, factor: int = 28, min_pixels: int = 128 * 784, max_pixels: int = 320 * 784
) -> tuple[int, int]:
    """Compute the size of an image for the model, by the rule of the Qwen processors.

    A processor with the same limits leaves an image of this size as it is.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        factor: both sides of the result are multiples of this.
        min_pixels: smallest area of one image.
        max_pixels: largest area of one image.

    Returns:
        (height, width) with about the same aspect and an area within the two limits.

    Raises:
        TooBig: one side is over 200 times the other.
        UsageError: the limits can't be met.
    """
    if factor < 1 or not (factor * factor <= max_pixels and 0 < min_pixels <= max_pixels):
        raise UsageError(
            f"need 0 < min_pixels <= max_pixels and {factor} x {factor} <= max_pixels, "
            f"got min_pixels={min_pixels}, max_pixels={max_pixels}"
        )
    if min(height, width) < 1:
        raise UsageError(f"an image has at least one pixel, got {width} x {height}")
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise TooBig(f"image of {width} x {height} is longer than {MAX_ASPECT} : 1; crop it first")

    def to_multiple(side: float, rounding: Callable[[float], int]) -> int:
        return max(factor, rounding(side / factor) * factor)

    # Round each side to a multiple; outside the limits scale both sides by the same factor instead.
    new_height, new_width = to_multiple(height, round), to_multiple(width, round)
    if new_height * new_width > max_pixels:
        # Divide by the shrinkage, don't multiply by its inverse: exact multiples would round to the other side.
        shrink = math.sqrt(height * width / max_pixels)
        new_height, new_width = to_multiple(height / shrink, math.floor), to_multiple(width / shrink, math.floor)
    elif new_height * new_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        new_height, new_width = to_multiple(height * grow, math.ceil), to_multiple(width * grow, math.ceil)
    return new_height, new_width


class ImageCollector:
    """Receives decoded frames in display order; keeps the one that is shown at each moment, scaled."""

    def __init__(self, moments: npt.NDArray[np.float64], factor: int, min_pixels: int, max_pixels: int) -> None:
        """Start without images.

        Args:
            moments: [N] seconds on the media clock, sorted.
            factor: see `smart_size`, as for the limits that follow.
            min_pixels: smallest area of one image.
            max_pixels: largest area of one image.
        """
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
    def complete(self) -> bool:
        """Whether each moment has its image."""
        return len(self.times) == len(self._moments)

    def add(self, time: float, frame: VideoFrame) -> None:
        """Take the frame that is shown from ``time`` on (seconds, media clock)."""
        if self._last is not None:
            if time <= self._last[0]:
                self.late += 1
                return
            # The previous frame was shown until now.
            self._store_last(until=time - TIME_TOLERANCE)
        self._last = (time, frame)

    def finish(self) -> None:
        """Let the last frame stand for all remaining moments."""
        if self._last is not None:
            self._store_last(until=math.inf)
        self._last = None

    def _store_last(self, until: float) -> None:
        """Store the last frame for every open moment earlier than ``until``."""
        assert self._last is not None
        time, frame = self._last
        image: npt.NDArray[np.uint8] | None = None
        while not self.complete and self._moments[len(self.times)] < until:
            image = self._scale(frame) if image is None else image
            if self.images is None:
                self.images = np.empty((len(self._moments), *image.shape), np.uint8)
            self.images[len(self.times)] = image
            self.times.append(time)

    def _scale(self, frame: VideoFrame) -> npt.NDArray[np.uint8]:
        """[H, W, 3] uint8 at the final size, upright. The first image fixes the size for the clip."""
        quarter_turns = round(float(getattr(frame, "rotation", 0)) / 90) % 4
        sideways = quarter_turns % 2 == 1
        height, width = (frame.width, frame.height) if sideways else (frame.height, frame.width)
        self._size = self._size or smart_size(height, width, **self._limits)
        # Scale as coded, then rotate: only the small image is turned.
        new_height, new_width = self._size[::-1] if sideways else self._size
        small = self._scaler.reformat(
            frame, width=new_width, height=new_height, format="rgb24", interpolation="BICUBIC"
        )
        return np.rot90(small.to_ndarray(), quarter_turns)
