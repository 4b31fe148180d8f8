"""The media clock: which moment of the file is 0, and where its tracks end according to their headers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from omnisift.media.headers import NORMAL_GAP, PacketHeaders
from omnisift.media.index import VideoIndex, frame_step

SKEW = 0.1
"""Seconds by which audio may begin before the video, or end after its stated end, as mere packing of the encoder."""

LENGTH_TOLERANCE = 0.5
"""Seconds by which stated and real lengths may differ without a warning."""

CONFIRMED = 1.0
"""Seconds by which the length of the audio may fall short of one that it confirms."""

STATES_TRACK_LENGTHS = ("mov", "avi")
"""Formats that state the length of each track: an image that ends earlier than the audio is meant to."""

GUESSED_LENGTH = ("aac", "amr", "ac3", "eac3", "mpeg", "mpegts", "asf")
"""Formats that state no length. FFmpeg guesses one from the bit rate (478 s for 20 s of AAC that begins silent) or the
last time stamp (0.1 s too short); ASF states when it ends, whenever it begins."""

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


def may_last_longer(
    container: InputContainer,
    stream: VideoStream,
    headers: PacketHeaders,
    shown_times: npt.NDArray[np.float64],
) -> bool:
    """Whether something in the file claims that the last image lasts unusually long: then the audio tells.

    The arguments are those of `find_video_end`.
    """
    usual = _usual_end(stream, headers, shown_times)
    claims = [float(shown_times[-1]) + headers.last_duration, _stated_track_end(stream)]
    if not container.format.name.startswith(STATES_TRACK_LENGTHS):
        claims.append(_container_end(container))
    return any(usual + LENGTH_TOLERANCE < end < math.inf for end in claims)


def find_video_end(
    container: InputContainer,
    stream: VideoStream,
    headers: PacketHeaders,
    shown_times: npt.NDArray[np.float64],
    audio_end: float,
) -> tuple[float, bool]:
    """Find when the last image ends, which in a recording of a still screen may be long after it begins.

    A length of the last frame, or of the track, is believed if the audio really is that long; that of the last frame
    also if the container states it. Where neither is stated, the last image is held to the end of the audio.

    Args:
        container: the open file.
        stream: its video track.
        headers: the packets of the video track.
        shown_times: [F] seconds on the file's own clock, sorted: when its frames are shown.
        audio_end: seconds on the file's own clock: when the last packet of audio ends; -inf without audio.

    Returns:
        Seconds on the file's own clock, and whether nothing but the audio states them.
    """
    usual = _usual_end(stream, headers, shown_times)
    # The length of the last frame, if it is unusual.
    stated = float(shown_times[-1]) + headers.last_duration
    if stated > usual and max(audio_end, _container_end(container)) >= stated - CONFIRMED:
        return stated, False
    # The length of the track.
    track_end = _stated_track_end(stream)
    if usual < track_end <= audio_end + CONFIRMED and math.isfinite(track_end):
        return track_end, False
    if container.format.name.startswith(STATES_TRACK_LENGTHS) or audio_end <= usual + LENGTH_TOLERANCE:
        return usual, False
    return audio_end, True


def read_clock(
    container: InputContainer,
    index: VideoIndex | None,
    video: VideoStream | None,
    audio: AudioStream | None,
    start: float,
    audio_headers: PacketHeaders | None,
    jumps: int,
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
        audio_headers: the packets of the audio track; None without any.
        jumps: how often the file's own clock jumps; what its headers state about lengths is then wrong.
    """
    audio_start, stated_audio_end = _stated_times(audio)
    if audio_headers is not None and abs(audio_headers.start - audio_start) > NORMAL_GAP:
        audio_start = audio_headers.start  # the first time stamp is broken
    audio_end = audio_headers.end if audio_headers is not None else -math.inf
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
    if jumps:
        stated_audio_end = stated_video_end = math.inf
    elif container.duration:
        container_end = ((container.start_time or 0) + container.duration) / 1e6 - zero
    return MediaClock(
        zero=zero,
        first_image_held=max(0.0, first_image - zero) if index is not None else 0.0,
        video_end=video_end,
        stated_audio_end=stated_audio_end,
        stated_video_end=stated_video_end - zero,
        latest_end=max(
            video_end,
            audio_end - zero,
            container_end if math.isfinite(container_end) or not jumps else -math.inf,
            stated_audio_end if math.isfinite(stated_audio_end) else -math.inf,
        ),
        max_lead_in=SKEW if index is None and start == 0 else 0.0,
    )


def _usual_end(stream: VideoStream, headers: PacketHeaders, shown_times: npt.NDArray[np.float64]) -> float:
    """File time at which the last frame ends if it lasts as long as others do."""
    step, stated = frame_step(shown_times), headers.last_duration
    usual = step or 1 / float(stream.average_rate or 1)
    return float(shown_times[-1]) + (stated if 0 < stated <= max(10 * step, 10.0) else usual)


def _stated_track_end(stream: VideoStream) -> float:
    """File time at which the track ends according to its header; inf if it has none."""
    _, end = _stated_times(stream)
    if "DURATION" in stream.metadata and not math.isfinite(end):
        return (stream.start_time or 0) * float(stream.time_base or 0) + _parse_time(stream.metadata["DURATION"])
    return end


def _container_end(container: InputContainer) -> float:
    """File time at which the file ends according to its header."""
    return ((container.start_time or 0) + (container.duration or 0)) / 1e6


def _parse_time(text: str) -> float:
    """Seconds of a time such as 00:01:02.500; infinity if it is none."""
    try:
        hours, minutes, seconds = text.split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return math.inf


def _stated_times(stream: VideoStream | AudioStream | None) -> tuple[float, float]:
    """File times of start and end according to the header; inf where it states none."""
    if stream is None:
        return math.inf, math.inf
    time_base = float(stream.time_base or 0)
    begin = (stream.start_time or 0) * time_base
    if not stream.duration or stream.container.format.name in GUESSED_LENGTH:
        return begin, math.inf
    return begin, begin + stream.duration * time_base
