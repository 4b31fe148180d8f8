"""Open media files safely: allow few formats and no other files, and turn every refusal into a typed error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.subtitles.stream import SubtitleStream
from av.video.stream import VideoStream

from omnisift.errors import Blocked
from omnisift.media.signatures import FORMATS, refusal
from omnisift.media.source import FileView, Source
from omnisift.media.work import WorkBudget

OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
"""Only known formats, and no protocol but the file itself."""
OBJECT_OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "none"}
"""The same for file objects: there is no protocol of this name, so nothing at all can be opened."""

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
            return av.open(
                FileView(file.content),
                "r",
                container_options=dict(OBJECT_OPTIONS),
                metadata_errors="ignore",
                io_open=_refuse_opening,
            )
        # "file:" and an absolute path, so that no name can be taken for a protocol ("concat:...") or an option ("-i").
        return av.open(f"file:{file.path.absolute()}", container_options=dict(OPTIONS), metadata_errors="ignore")
    except DECODE_ERRORS:
        raise refusal(file.head()) from None


def read_packets(
    container: InputContainer, streams: Sequence[VideoStream | AudioStream | SubtitleStream], budget: WorkBudget
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


def _refuse_opening(*_arguments: Any) -> NoReturn:
    """What FFmpeg gets where a file object asks for another file."""
    raise Blocked("refers to another file; give the media file itself")
