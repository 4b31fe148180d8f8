"""The media clock: which moment of the file is 0, and where its tracks say that they end."""

from __future__ import annotations

import math
from dataclasses import dataclass

from av.audio.stream import AudioStream
from av.container import InputContainer

from omnisift.media.index import PictureIndex

SKEW = 0.1
"""Seconds by which sound may begin before the picture, or end after it, as mere packing of the encoder."""


@dataclass(frozen=True)
class Clock:
    """All times are seconds; ``zero`` is on the file's own clock, the others on the media clock."""

    zero: float
    """File time of 0."""
    held: float
    """How long the first image is held because the picture begins after the sound; 0 usually."""
    film_end: float
    """End of the picture; -inf without one."""
    sound_end: float
    """End of the sound as its header states it; inf if it doesn't."""
    known_end: float
    """Nothing in the file claims to be later than this; inf if unknown."""
    snap: float
    """Without picture and from the start, a first sample later than 0 by less than this is an encoder's lead-in."""


def set_clock(box: InputContainer, film: PictureIndex | None, track: AudioStream | None, start: float) -> Clock:
    """0 is the first picture. If the sound begins more than `SKEW` earlier, 0 is the first sound and nothing is lost.

    ``start`` moves 0 later by so many seconds. The start time that the file itself gives (often 1.4 s in broadcast
    streams, up to hours) falls away; the offset between sound and picture stays.
    """
    tick = float(track.time_base or 0) if track is not None else 0.0
    heard = (track.start_time or 0) * tick if track is not None else math.inf
    seen = float(film.shown[0]) if film is not None else math.inf
    begin = heard if heard < seen - SKEW else seen
    if not math.isfinite(begin):
        begin = 0.0
    zero = begin + start
    film_end = film.end - zero if film is not None else -math.inf
    sound_end = heard + track.duration * tick - zero if track is not None and track.duration else math.inf
    whole = ((box.start_time or 0) + box.duration) / 1e6 - zero if box.duration else math.inf
    return Clock(
        zero=zero,
        held=max(0.0, seen - zero) if film is not None else 0.0,
        film_end=film_end,
        sound_end=sound_end,
        known_end=max(film_end, whole, sound_end if math.isfinite(sound_end) else -math.inf),
        snap=SKEW if film is None and start == 0 else 0.0,
    )
