"""`ReadArguments`: the checked arguments of `omnisift.media.read`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

from omnisift.errors import UsageError
from omnisift.media.image import ImageCollector, smart_size
from omnisift.media.reading import ClipReader
from omnisift.media.sampling import Sampling, check_numbers, check_sampling
from omnisift.media.source import Source
from omnisift.media.subtitles import TextKind, check_text
from omnisift.media.work import WorkBudget, check_budget


@dataclass(frozen=True, kw_only=True)
class ReadArguments:
    """All arguments of `omnisift.media.read` but the file."""

    fps: float
    max_frames: int | None
    min_pixels: int
    max_pixels: int
    total_pixels: int | None
    factor: int
    sampling: Sampling
    video: bool
    audio: bool
    require_video: bool
    require_audio: bool
    start: float
    end: float | None
    max_seconds: float
    max_decoded_pixels: int
    read_timeout: float
    strict: bool
    text: TextKind = None

    @property
    def limit(self) -> int:
        """Maximum number of images."""
        return check_sampling(self.sampling, self.max_frames)

    def check(self) -> None:
        """Raise `UsageError` for arguments that are wrong or out of range."""
        limit = self.limit
        if not (self.video or self.audio):
            raise UsageError("video=False and audio=False leave nothing to read; allow one of them")
        check_numbers(self.fps, limit, self.start, self.end, self.max_seconds)
        check_text(self.text)
        check_budget(self.max_decoded_pixels, self.read_timeout)
        smart_size(self.factor, self.factor, factor=self.factor, min_pixels=self.min_pixels, max_pixels=self.max_pixels)
        total = self.total_pixels
        if total is not None and not (isinstance(total, Real) and 1 <= total < math.inf):
            raise UsageError(f"total_pixels must be a number of at least 1 or None, got {total!r}")

    def budget(self) -> WorkBudget:
        """Return the bounds on the work; the time starts now."""
        return WorkBudget(self.max_decoded_pixels, self.read_timeout)

    def plan(
        self, file: Source, budget: WorkBudget, images: Callable[..., ImageCollector], *, ask_decoder: bool = False
    ) -> ClipReader:
        """Return a reader of a file that knows its tracks, its clock and the moments of its images.

        Args:
            file: as `check_source` returned it.
            budget: what reading the file may cost.
            images: `ImageCollector`, or what makes another one with the same arguments.
            ask_decoder: see `ClipPlan.inspect`.

        Raises:
            MediaError: the file can't be opened, has neither video nor audio, or its subtitles can't be read.
            UsageError: the requested part has no video.
        """
        reader = ClipReader(file, self.video, self.audio, self.start, self.end, self.max_seconds, budget)
        reader.inspect(ask_decoder)
        if self.text is not None:
            reader.read_text(self.strict)
        reader.plan_images(self.sampling, self.fps, self.limit)
        if reader.grid is not None:
            moments = reader.grid.moments
            reader.image_collector = images(moments, self.factor, *self._pixels(len(moments)))
        return reader

    def _pixels(self, count: int) -> tuple[int, int]:
        """Smallest and largest area of each of so many images."""
        if self.total_pixels is None:
            return self.min_pixels, self.max_pixels
        largest = min(self.max_pixels, max(self.factor * self.factor, self.total_pixels // max(1, count)))
        return min(self.min_pixels, largest), largest
