"""The media clock: which moment of the file is 0, and where its tracks say that they end."""

from __future__ import annotations

import math
from dataclasses import dataclass

from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from omnisift.media.index import VideoIndex

SKEW = 0.1
"""Seconds by which sound may begin before the picture, or end after its stated end, as mere packing of the encoder."""

PADDING = 0.05
"""Seconds by which sound may outlast the picture as mere padding of its last packet (AAC: 1024 samples)."""


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
    film_stated: float
    """End of the picture as its header states it; inf if it doesn't."""
    known_end: float
    """Nothing in the file claims to be later than this; inf if unknown."""
    snap: float
    """Without picture and from the start, a first sample later than 0 by less than this is an encoder's lead-in."""


def set_clock(
    box: InputContainer, index: VideoIndex | None, film: VideoStream | None, track: AudioStream | None, start: float
) -> Clock:
    """0 is the first picture. If the sound begins more than `SKEW` earlier, 0 is the first sound and nothing is lost.

    ``start`` moves 0 later by so many seconds. The start time that the file itself gives (often 1.4 s in broadcast
    streams, up to hours) falls away; the offset between sound and picture stays.
    """
    heard, sound_end = _stated(track)
    _, film_stated = _stated(film)
    seen = float(index.shown[0]) if index is not None else math.inf
    begin = heard if heard < seen - SKEW else seen
    if not math.isfinite(begin):
        begin = 0.0
    zero = begin + start
    film_end = index.end - zero if index is not None else -math.inf
    sound_end -= zero
    whole = ((box.start_time or 0) + box.duration) / 1e6 - zero if box.duration else math.inf
    return Clock(
        zero=zero,
        held=max(0.0, seen - zero) if index is not None else 0.0,
        film_end=film_end,
        sound_end=sound_end,
        film_stated=film_stated - zero,
        known_end=max(film_end, whole, sound_end if math.isfinite(sound_end) else -math.inf),
        snap=SKEW if index is None and start == 0 else 0.0,
    )


def _stated(stream: VideoStream | AudioStream | None) -> tuple[float, float]:
    """File times of start and end as the header states them; inf where it doesn't."""
    if stream is None:
        return math.inf, math.inf
    tick = float(stream.time_base or 0)
    begin = (stream.start_time or 0) * tick
    return begin, begin + stream.duration * tick if stream.duration else math.inf
