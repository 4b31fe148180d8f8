"""Open media files safely: allow few formats and no other files, and turn every refusal into a typed error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NoReturn

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from omnisift.errors import Blocked, TooBig
from omnisift.media.signatures import FORMATS, refusal
from omnisift.media.source import Source
from omnisift.media.work import WorkBudget

OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
"""Only known formats, and no protocol but the file itself."""
OBJECT_OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "none"}
"""The same for file objects: there is no protocol of this name, so nothing at all can be opened."""

MAX_CODED_PIXELS = 8192 * 4320
"""Largest coded image, in pixels: with one such image swscale and the decoder stay within about 450 MB."""

DECODE_ERRORS = (av.FFmpegError, MemoryError, AttributeError, LookupError, ValueError, OverflowError)
"""Errors of PyAV on bad bytes. Measured by fuzzing: `av.FFmpegError` alone misses about 1 % of broken files."""

MAX_READ_ERRORS = 1000


def open_container(file: Source) -> InputContainer:
    """Open a file with the format and protocol lists above.

    Args:
        file: as `check_source` returned it.

    Raises:
        Blocked: the file is a playlist or another list of references.
        NotMedia: no allowed decoder recognises it.
        Damaged: its first bytes are those of a known container, but it can't be opened.
    """
    try:
        if file.content is not None:
            file.content.seek(0)
            return av.open(
                file.content,
                "r",
                container_options=dict(OBJECT_OPTIONS),
                metadata_errors="ignore",
                io_open=_refuse_opening,
            )
        # "file:" and an absolute path, so that no name can be taken for a protocol ("concat:...") or an option ("-i").
        return av.open(f"file:{file.path.absolute()}", container_options=dict(OPTIONS), metadata_errors="ignore")
    except DECODE_ERRORS:
        raise refusal(file.head()) from None


def video_stream(container: InputContainer) -> VideoStream | None:
    """Return the default video track, else the first; None without video. Cover art does not count as video.

    Raises:
        TooBig: its images have more than `MAX_CODED_PIXELS`.
    """
    tracks = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic and _decodable(s)]
    if not tracks:
        return None
    stream = next((s for s in tracks if s.disposition & Disposition.default), tracks[0])
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_CODED_PIXELS:
        raise TooBig(f"video of {width} x {height} is over the limit of 8192 x 4320; scale it down first")
    # The header may be wrong about the size; the decoder itself refuses larger images.
    stream.codec_context.options = {"max_pixels": str(MAX_CODED_PIXELS)}
    # Each decoding thread holds its own images: few threads for large ones bound memory.
    stream.codec_context.thread_type = "AUTO"
    stream.codec_context.thread_count = min(8, os.cpu_count() or 1) if width * height <= 1920 * 1088 else 2
    return stream


def audio_stream(container: InputContainer) -> AudioStream | None:
    """Return the default audio track, else the first; None without audio."""
    tracks = [s for s in container.streams.audio if _decodable(s)]
    return next((s for s in tracks if s.disposition & Disposition.default), tracks[0] if tracks else None)


def read_packets(
    container: InputContainer, streams: list[VideoStream | AudioStream], budget: WorkBudget
) -> Iterator[Packet[Any] | None]:
    """Yield packets with content, in file order; None for each read error that was skipped.

    Raises:
        MediaTimeout: the time of ``budget`` is over.
    """
    for _ in range(MAX_READ_ERRORS):
        try:
            for packet in container.demux(streams):
                budget.check_time()
                if packet.size and packet.stream is not None:
                    yield packet
            return
        except EOFError:  # noqa: PERF203  each failure is one packet, and reading continues
            return
        except DECODE_ERRORS:
            yield None


def _decodable(stream: VideoStream | AudioStream) -> bool:
    """Whether the stream has a codec context: damaged headers give streams without one."""
    return getattr(stream, "codec_context", None) is not None and stream.time_base is not None


def _refuse_opening(*_arguments: Any) -> NoReturn:
    """What FFmpeg gets where a file object asks for another file."""
    raise Blocked("refers to another file; give the media file itself")
