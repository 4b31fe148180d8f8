"""The media clock: which moment of the file is 0, and where its tracks end according to their headers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from omnisift.media.index import VideoIndex

SKEW = 0.1
"""Seconds by which audio may begin before the video, or end after its stated end, as mere packing of the encoder."""

GUESSED_LENGTH = ("aac", "amr", "ac3", "eac3", "mpeg")
"""Formats that state no length. FFmpeg guesses one from the bit rate (478 s for 20 s of AAC that begins silent) or the
last time stamp (0.1 s too short)."""

PADDING = 0.05
"""Seconds by which audio may outlast the video as mere padding of its last packet (AAC: 1024 samples)."""


@dataclass(frozen=True)
class MediaClock:
    """All times are seconds; ``zero`` is on the file's own clock, the others on the media clock."""

    zero: float
    """File time of 0."""
    first_image_held: float
    """How long the first image stands in because the video begins after the audio; usually 0."""
    video_end: float
    """End of the video; -inf without one."""
    stated_audio_end: float
    """End of the audio according to its header; inf if it has none."""
    stated_video_end: float
    """End of the video according to its header; inf if it has none."""
    latest_end: float
    """Nothing in the file claims to be later than this; inf if unknown."""
    max_lead_in: float
    """Without video and from the start, a first sample later than 0 by less than this is an encoder's lead-in."""


def read_clock(
    container: InputContainer,
    index: VideoIndex | None,
    video: VideoStream | None,
    audio: AudioStream | None,
    start: float,
) -> MediaClock:
    """Choose the zero of the media clock: the first image, or the first audio if that is more than `SKEW` earlier.

    The start time that the file itself states (often 1.4 s in broadcast streams, up to hours) is removed; the offset
    between audio and video stays.

    Args:
        container: the open file.
        index: the frames of the video track; None without frames.
        video: the video track; None without one.
        audio: the audio track; None without one.
        start: seconds by which 0 is moved later.
    """
    audio_start, stated_audio_end = _stated_times(audio)
    _, stated_video_end = _stated_times(video)
    first_image = float(index.shown_times[0]) if index is not None else math.inf
    # Audio that begins clearly earlier than the video would lose its beginning.
    begin = audio_start if audio_start < first_image - SKEW else first_image
    if not math.isfinite(begin):
        begin = 0.0
    zero = begin + start
    video_end = index.end - zero if index is not None else -math.inf
    stated_audio_end -= zero
    container_end = math.inf
    if container.duration:
        container_end = ((container.start_time or 0) + container.duration) / 1e6 - zero
    return MediaClock(
        zero=zero,
        first_image_held=max(0.0, first_image - zero) if index is not None else 0.0,
        video_end=video_end,
        stated_audio_end=stated_audio_end,
        stated_video_end=stated_video_end - zero,
        latest_end=max(video_end, container_end, stated_audio_end if math.isfinite(stated_audio_end) else -math.inf),
        max_lead_in=SKEW if index is None and start == 0 else 0.0,
    )


def _stated_times(stream: VideoStream | AudioStream | None) -> tuple[float, float]:
    """File times of start and end according to the header; inf where it states none."""
    if stream is None:
        return math.inf, math.inf
    time_base = float(stream.time_base or 0)
    begin = (stream.start_time or 0) * time_base
    if not stream.duration or stream.container.format.name in GUESSED_LENGTH:
        return begin, math.inf
    return begin, begin + stream.duration * time_base
