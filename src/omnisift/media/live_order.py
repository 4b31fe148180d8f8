"""In which order images and samples of a stream follow each other, and where the samples are cut."""

from __future__ import annotations

import math

from omnisift.media.units import SAMPLE_RATE

PIECE_SAMPLES = SAMPLE_RATE // 4
"""Most samples of one piece."""


class StreamOrder:
    """Counts the images and samples of a stream and tells which come next: in order of time, the image first.

    Samples are cut at multiples of `PIECE_SAMPLES` and at the images, so no piece reaches beyond the next image.
    """

    def __init__(self, fps: float, has_video: bool, has_audio: bool) -> None:
        """Start at 0.

        Args:
            fps: images per second.
            has_video: whether images come.
            has_audio: whether samples come.
        """
        self._fps = fps
        self.has_video = has_video
        self.has_audio = has_audio
        self.image = 0
        """Number of the next image."""
        self.sample = 0
        """Number of the next sample."""

    @property
    def image_time(self) -> float:
        """Seconds: the moment of the next image."""
        return self.image / self._fps

    @property
    def sample_time(self) -> float:
        """Seconds: when the next sample is heard."""
        return self.sample / SAMPLE_RATE

    @property
    def is_image_next(self) -> bool:
        """Whether the next piece is an image; else it has samples up to `samples_end`."""
        return self.has_video and (not self.has_audio or self._sample_of(self.image) <= self.sample)

    @property
    def samples_end(self) -> int:
        """One past the last sample of the next piece of samples."""
        end = (self.sample // PIECE_SAMPLES + 1) * PIECE_SAMPLES
        if not self.has_video:
            return end
        return min(end, self._sample_of(self.image))

    def _sample_of(self, image: int) -> int:
        """The first sample that is not heard before an image is shown; times that are rounded count as equal."""
        return math.ceil(image * SAMPLE_RATE / self._fps - 1e-6)
