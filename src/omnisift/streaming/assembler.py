"""Put the pieces of a stream in their places: images at even moments, samples without holes, one unit after another.

Pieces may come in any order within `MAX_DELAY` seconds. What is missing then is filled:

- a missing image is the last one before it,
- missing samples are silence,
- a unit without any piece is a gap: time continues, but the unit has no tokens,
- before the first image there are gaps, whatever is heard; in its own unit it stands for the moments before it.

What comes too late, or twice, is left out and counted.
"""

from __future__ import annotations

import bisect
import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from omnisift.errors import UsageError
from omnisift.media import SAMPLE_RATE
from omnisift.media.pieces import MAX_TIME, Piece
from omnisift.media.sampling import TIME_TOLERANCE

MAX_DELAY = 0.5
"""Seconds by which a piece may come after later ones."""
JITTER = 0.05
"""Seconds between the end of samples and the time of the next ones that are taken for an error of their clock, if they
last twice as long: a piece of their length can't be missing."""
_MOST_WAITING = 1000
"""Pieces of samples that wait for those before them."""

Images = npt.NDArray[np.uint8]
Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Counted:
    """What was unusual about the pieces of a stream."""

    repeated_images: int = 0
    """Moments without an image of their own, for which the last one stands."""
    silent_seconds: float = 0.0
    """Seconds of missing samples that are silence."""
    gap_seconds: float = 0.0
    """Seconds without any piece, or before the first image, of which no token exists."""
    late_pieces: int = 0
    """Pieces that came later than `MAX_DELAY` allows; what was missing had been filled."""
    doubled_pieces: int = 0
    """Pieces of which a part was there already."""


@dataclass(frozen=True)
class Unit:
    """One unit of a stream, or the part of it that is there."""

    number: int
    images: list[Images] = field(default_factory=list)
    """[H, W, 3] each, scaled; empty in a gap."""
    samples: Samples | None = None
    """[N]: those of the unit; None without sound."""
    decided: int = 0
    """The first images, which no later piece changes."""
    following: Samples | None = None
    """The samples right after the unit that its spectrogram sees."""


class Assembler:
    """Collects pieces into units.

    Args:
        fps: images per second.
        unit_images: images of a unit.
        unit_samples: samples of a unit; 0 without sound.
        following: samples after a unit that its spectrogram sees.
        scale: brings an image to the stream's size; called once for each that is used.
    """

    def __init__(
        self,
        fps: float,
        unit_images: int,
        unit_samples: int,
        following: int,
        scale: Callable[[Images], Images],
    ) -> None:
        self._rate = Fraction(fps).limit_denominator(1000)
        self._unit_images, self._unit_samples, self._following = unit_images, unit_samples, following
        self._scale = scale
        self.unit = 0
        """Number of the current unit."""
        self.seen = 0.0
        """The latest time of a piece."""
        self.counted = Counted()
        """What was unusual so far."""
        # Images: those of the current unit's moments, and the latest for each later moment.
        self._images: list[Images] = []
        self._waiting = dict[int, tuple[float, Images]]()
        self._last: Images | None = None
        self._last_time = -1.0
        # Samples: those of the current unit and after, without holes, and those behind a hole.
        self._buffer = np.zeros(0, np.float32)
        self._begin = 0
        self._behind: list[tuple[int, int, Samples]] = []
        self._silence = (0, 0)
        self._heard = 0
        """Behind the last sample that a piece brought."""
        self._order = 0

    # --- pieces

    def add(self, piece: Piece) -> None:
        """Take a piece, whose arrays are copied. Raises `UsageError` if its time is no time."""
        check_time(piece.time)
        time = float(piece.time)
        if piece.image is not None:
            self._add_image(time, piece.image)
        if piece.samples is not None and self._unit_samples:
            self._add_samples(round(time * SAMPLE_RATE), np.array(piece.samples, np.float32))
        self.seen = max(self.seen, time)

    @property
    def end(self) -> float:
        """Seconds of the stream so far: the end of its last samples or the time of its last image."""
        return max(self.seen, self._end / SAMPLE_RATE)

    def _add_image(self, time: float, image: Images) -> None:
        """Keep the latest image for each moment that is still open."""
        moment = max(0, math.ceil((time - TIME_TOLERANCE) * self._rate))
        open_moment = self._open_moment
        if moment < open_moment:
            is_same = time == self._last_time
            # Within the delay, a moment is decided before its time by an image that is shown right then.
            is_late = not is_same and self.seen >= time + MAX_DELAY - TIME_TOLERANCE
            self._count(late_pieces=int(is_late), doubled_pieces=int(is_same))
            if time <= self._last_time:
                return
            moment = open_moment
        before = self._waiting.get(moment)
        if before is not None and time <= before[0]:
            self._count(doubled_pieces=int(time == before[0]))
            return
        self._waiting[moment] = time, image.copy()

    def _add_samples(self, begin: int, samples: Samples) -> None:
        """Append samples, or let them wait for those before them."""
        if not len(samples):
            return
        end = self._end
        if abs(begin - end) <= _jitter(samples) and not self._behind and self._heard >= end:
            begin = end
        if begin < end:
            cut = min(end - begin, len(samples))
            is_late = self._silence[0] < begin + cut and begin < self._silence[1]
            self._count(late_pieces=int(is_late), doubled_pieces=int(not is_late))
            begin, samples = begin + cut, samples[cut:]
        if not len(samples):
            return
        self._order += 1
        bisect.insort(self._behind, (begin, self._order, samples))
        self._join()
        if len(self._behind) > _MOST_WAITING:
            self._fill(self._behind[0][0])

    def _join(self) -> None:
        """Append what follows the samples without a hole."""
        parts = [self._buffer]
        end = self._end
        while self._behind and self._behind[0][0] - end <= _jitter(self._behind[0][2]):
            begin, _, samples = self._behind.pop(0)
            skip = end - begin
            if self._heard < end < begin:
                # Behind silence there is no end of samples that a clock could be wrong about.
                parts.append(np.zeros(begin - end, np.float32))
                self._count(silent_seconds=(begin - end) / SAMPLE_RATE)
                end = begin
            if skip <= (_jitter(samples) if self._heard >= end else 0):
                skip = 0
            if skip:
                self._count(doubled_pieces=1)
                samples = samples[skip:]
            parts.append(samples)
            end += len(samples)
            self._heard = end
        self._buffer = np.concatenate(parts)

    def _fill(self, until: int) -> None:
        """Let silence stand for missing samples before number ``until``."""
        missing = until - self._end
        if missing > 0:
            self._silence = self._end, until
            self._count(silent_seconds=missing / SAMPLE_RATE)
            self._buffer = np.concatenate([self._buffer, np.zeros(missing, np.float32)])
        self._join()

    @property
    def _end(self) -> int:
        return self._begin + len(self._buffer)

    @property
    def _open_moment(self) -> int:
        """The first moment whose image may still change."""
        return self.unit * self._unit_images + len(self._images)

    # --- units

    def ready(self) -> Iterator[Unit]:
        """Yield the units that are complete, each once."""
        while True:
            unit = self._next_unit()
            if unit is None:
                return
            yield unit

    def _next_unit(self) -> Unit | None:
        self._skip_gaps()
        first, last = self.unit * self._unit_images, (self.unit + 1) * self._unit_images
        if self._last is not None and self._is_empty() and self.seen < float(last / self._rate) + MAX_DELAY:
            return None  # it may turn out to be a gap
        while self._open_moment < last and self._is_decided(self._open_moment):
            self._decide(self._open_moment)
        if self._open_moment < last or not self._has_samples():
            return None
        is_gap = self._last is None
        samples, following = self._take_samples()
        unit = Unit(self.unit, _filled(self._images), samples, len(self._images), following)
        self.unit, self._images = self.unit + 1, []
        if is_gap:
            self._count(gap_seconds=float((last - first) / self._rate))
        return unit

    def _is_decided(self, moment: int) -> bool:
        """Whether no later piece can bring a better image for a moment."""
        begin = float(moment / self._rate)
        found = self._waiting.get(moment)
        is_exact = found is not None and found[0] >= begin - TIME_TOLERANCE
        return is_exact or self.seen >= begin + MAX_DELAY

    def _decide(self, moment: int) -> None:
        """Fix the image of the first open moment."""
        found = self._waiting.pop(moment, None)
        if found is not None:
            self._last, self._last_time = self._scale(found[1]), found[0]
        elif self._last is not None:
            self._count(repeated_images=1)
        if self._last is not None:
            self._images.append(self._last)
        else:
            self._images.append(np.zeros((0, 0, 3), np.uint8))

    def _has_samples(self) -> bool:
        """Whether the samples of the unit are there, after silence was filled in for those that are too late."""
        if not self._unit_samples:
            return True
        needed = (self.unit + 1) * self._unit_samples + self._following
        while self._end < needed:
            if self.seen < self._end / SAMPLE_RATE + MAX_DELAY:
                return False
            hole = self._behind[0][0] if self._behind else needed
            latest = int((self.seen - MAX_DELAY) * SAMPLE_RATE) + 1
            self._fill(min(hole, needed, max(latest, self._end + 1)))
        return True

    def _take_samples(self) -> tuple[Samples | None, Samples | None]:
        if not self._unit_samples:
            return None, None
        end = (self.unit + 1) * self._unit_samples - self._begin
        begin = max(0, end - self._unit_samples)
        samples, following = self._buffer[begin:end].copy(), self._buffer[end : end + self._following].copy()
        self._buffer, self._begin = self._buffer[end:], self._begin + end
        return samples, following

    def _skip_gaps(self) -> None:
        """Go on to the unit of the next piece where whole units before it have none and are over."""
        if self._images or self._has_heard():
            return
        begins = [moment // self._unit_images for moment in self._waiting]
        if self._behind and self._last is not None:
            begins.append(self._behind[0][0] // self._unit_samples)
        over = int((self.seen - MAX_DELAY) * self._rate // self._unit_images)
        target = min([over, *begins])
        if target <= self.unit:
            return
        self._count(gap_seconds=float((target - self.unit) * self._unit_images / self._rate))
        self.unit = target
        if self._unit_samples:
            self._begin, self._buffer = target * self._unit_samples, np.zeros(0, np.float32)
            self._behind = [part for part in self._behind if part[0] + len(part[2]) > self._begin]
            self._join()

    def _is_empty(self) -> bool:
        """Whether no piece of the current unit came so far."""
        last = (self.unit + 1) * self._unit_images
        samples_end = (self.unit + 1) * self._unit_samples
        is_heard = self._has_heard() or any(begin < samples_end for begin, _, _ in self._behind)
        return not (self._images or is_heard or any(moment < last for moment in self._waiting))

    def _has_heard(self) -> bool:
        """Whether a piece brought samples of the current unit."""
        return bool(self._unit_samples) and self._last is not None and self._heard > self.unit * self._unit_samples

    def unfinished(self) -> Unit | None:
        """The part of the current unit that is there now; None if nothing is. Nothing changes."""
        now = copy.copy(self)
        now._images, now._waiting = list(self._images), dict(self._waiting)
        now.counted = replace(self.counted)
        first = self.unit * self._unit_images
        latest = max(self._waiting, default=-1)
        until = max(latest + 1, self._open_moment, math.floor(self.end * self._rate + Fraction(1, 2)))
        until = min(until, first + self._unit_images)
        samples = None
        if self._unit_samples:
            begin = self.unit * self._unit_samples - self._begin
            samples = self._buffer[begin : begin + self._unit_samples]
        if until <= first and (samples is None or not len(samples)):
            return None
        while now._open_moment < max(until, first + 1):
            now._decide(now._open_moment)
        decided = 0 if self._last is None else len(self._images)
        return None if now._last is None else Unit(self.unit, _filled(now._images), samples, decided)

    def _count(self, **more: float) -> None:
        self.counted = replace(
            self.counted, **{name: getattr(self.counted, name) + value for name, value in more.items()}
        )


def check_time(time: Any) -> None:
    """Raise `UsageError` for the time of a piece that is none."""
    is_number = isinstance(time, Real) and not isinstance(time, bool)
    if not is_number or not 0 <= time <= MAX_TIME:
        raise UsageError(f"the time of a piece must be seconds of the stream, from 0 to {MAX_TIME:g}, got {time!r:.80}")


def _filled(images: list[Images]) -> list[Images]:
    """The images of a unit; the first one stands for the moments before it. Empty without any."""
    first = next((image for image in images if image.size), None)
    return [] if first is None else [image if image.size else first for image in images]


def _jitter(samples: Samples) -> float:
    """Samples by which a piece may be early or late and still follow the one before."""
    return max(0.0, min(JITTER * SAMPLE_RATE, len(samples) / 2 - 1))
