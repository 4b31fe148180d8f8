"""Images: their final size, rotation, scaling, and which decoded frame stands for each sampled moment."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

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


def scale_image(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """[H, W, 3] to [height, width, 3] of ``size``, as images of files are scaled."""
    if image.shape[:2] == size:
        return image
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    small = VideoReformatter().reformat(frame, width=size[1], height=size[0], format="rgb24", interpolation="BICUBIC")
    return np.asarray(small.to_ndarray(), np.uint8)


@dataclass(frozen=True)
class Orientation:
    """How coded images are turned and mirrored for display: exchange the axes, then reverse them."""

    sideways: bool = False
    """Whether rows become columns."""
    reverse_rows: bool = False
    """Whether the result is turned upside down."""
    reverse_columns: bool = False
    """Whether the result is mirrored left to right."""

    @classmethod
    def of(cls, frame: VideoFrame) -> Orientation:
        """Read the display matrix of a frame, which comes from the container or from inside the stream."""
        side_data: list[Any] = list(frame.side_data)  # PyAV's own annotation is that of its keys
        data = next((bytes(item) for item in side_data if item.type.name == "DISPLAYMATRIX"), b"")
        if len(data) < 16:
            return cls()
        # A point (x right, y down) of the coded image is shown at (a x + c y, b x + d y); nine 32-bit numbers in all.
        a, b, _, c, d = np.frombuffer(data[:20], np.int32).astype(np.int64).tolist()
        if abs(b) + abs(c) > abs(a) + abs(d):
            return cls(True, reverse_rows=b < 0, reverse_columns=c < 0)
        return cls(False, reverse_rows=d < 0, reverse_columns=a < 0)

    def apply(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """[H, W, 3] as coded to [H', W', 3] as shown."""
        shown = image.swapaxes(0, 1) if self.sideways else image
        return shown[:: -1 if self.reverse_rows else 1, :: -1 if self.reverse_columns else 1]


class FrameScaler:
    """Scales and turns the frames of one clip; the first frame fixes the size and the orientation of all images."""

    def __init__(self, factor: int, min_pixels: int, max_pixels: int) -> None:
        """Start before the first frame.

        Args:
            factor: see `smart_size`, as for the limits that follow.
            min_pixels: smallest area of one image.
            max_pixels: largest area of one image.
        """
        self._limits = {"factor": factor, "min_pixels": min_pixels, "max_pixels": max_pixels}
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None
        self._orientation: Orientation | None = None
        self.shapes: list[str] = []
        """Sizes of the frames that were scaled, in the order in which they first came."""

    def orient(self, frame: VideoFrame) -> None:
        """Take the orientation of all images from the first frame of the clip, whether it is shown or not."""
        self._orientation = self._orientation or Orientation.of(frame)

    def scale(self, frame: VideoFrame) -> npt.NDArray[np.uint8]:
        """Return the frame as [H, W, 3] uint8 RGB at the final size, upright."""
        orientation = self._orientation or Orientation()
        shape = f"{frame.width} x {frame.height}"
        if shape not in self.shapes:
            self.shapes.append(shape)
        height, width = (frame.width, frame.height) if orientation.sideways else (frame.height, frame.width)
        self._size = self._size or smart_size(height, width, **self._limits)
        # Scale as coded, then turn: only the small image is turned.
        new_height, new_width = self._size[::-1] if orientation.sideways else self._size
        small = self._reformatter.reformat(
            frame, width=new_width, height=new_height, format="rgb24", interpolation="BICUBIC"
        )
        return orientation.apply(np.asarray(small.to_ndarray(), np.uint8))

    def warnings(self) -> list[str]:
        """Sentences about what was unusual."""
        if len(self.shapes) < 2:
            return []
        shapes = " to ".join(self.shapes[:3]) + (" ..." if len(self.shapes) > 3 else "")
        return [f"the size or shape of the images changes from {shapes}; all were scaled to that of the first"]


class ImageCollector:
    """Receives decoded frames in display order, stretch by stretch; keeps the one shown at each moment, scaled."""

    def __init__(self, moments: npt.NDArray[np.float64], factor: int, min_pixels: int, max_pixels: int) -> None:
        """Start without images.

        Args:
            moments: [N] seconds on the media clock, sorted.
            factor: see `smart_size`, as for the limits that follow.
            min_pixels: smallest area of one image.
            max_pixels: largest area of one image.
        """
        self.moments = moments
        self._scaler = FrameScaler(factor, min_pixels, max_pixels)
        self._last: tuple[float, VideoFrame] | None = None
        self._open: list[int] = []  # moments of the current stretch without an image, the earliest last
        self.images: npt.NDArray[np.uint8] | None = None
        """[N, H, W, 3]; None until the first frame."""
        self.times = np.full(len(moments), np.nan)
        """[N] seconds: when the image of each moment is shown; NaN while it is missing."""
        self.late = 0
        """Frames that came after one of a later time."""

    @property
    def missing(self) -> npt.NDArray[np.int64]:
        """Moments without an image."""
        return np.flatnonzero(np.isnan(self.times))

    def begin(self, moments: Iterable[int]) -> None:
        """Begin a stretch of frames, which has the images of these moments (numbers, sorted)."""
        self._last = None
        self._open = sorted(moments, reverse=True)

    def orient(self, frame: VideoFrame) -> None:
        """Take the orientation of all images from the first frame of the clip, whether it is shown or not."""
        self._scaler.orient(frame)

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
        """End the stretch: its last frame stands for its remaining moments."""
        if self._last is not None:
            self._store_last(until=math.inf)
        self._last = None

    def drop(self) -> None:
        """End the stretch; its remaining moments stay without an image."""
        self._last, self._open = None, []

    def withdraw_later(self, moments: npt.NDArray[np.int64], shown_at: npt.NDArray[np.float64]) -> bool:
        """Take back the images of moments that are shown later than ``shown_at``; returns whether there are any."""
        with np.errstate(invalid="ignore"):
            later = moments[self.times[moments] > shown_at + TIME_TOLERANCE]
        self.times[later] = np.nan
        return len(later) > 0

    def fill_missing(self) -> None:
        """Let the image before, else the one after, stand for moments without an image."""
        missing, present = self.missing, np.flatnonzero(~np.isnan(self.times))
        if self.images is None or not len(present):
            return
        for moment in missing:
            substitute = present[max(0, int(np.searchsorted(present, moment)) - 1)]
            self.images[moment], self.times[moment] = self.images[substitute], self.times[substitute]

    def warnings(self) -> list[str]:
        """Sentences about what was unusual."""
        return self._scaler.warnings()

    def _store_last(self, until: float) -> None:
        """Store the last frame for every open moment earlier than ``until``."""
        assert self._last is not None
        time, frame = self._last
        image: npt.NDArray[np.uint8] | None = None
        while self._open and self.moments[self._open[-1]] < until:
            image = self._scaler.scale(frame) if image is None else image
            moment = self._open.pop()
            self._store(moment, image)
            self.times[moment] = time

    def _store(self, moment: int, image: npt.NDArray[np.uint8]) -> None:
        if self.images is None:
            self.images = np.empty((len(self.moments), *image.shape), np.uint8)
        self.images[moment] = image
