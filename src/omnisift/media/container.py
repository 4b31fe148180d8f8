"""Open media files safely: check the path first, allow few formats, and turn every refusal into a typed error."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from omnisift.errors import Blocked, Damaged, NotAFile, NotFound, NotMedia, NotReadable, UsageError
from omnisift.media.work import WorkBudget

# Playlists can name other files and hosts, so no format that is a list of references is allowed, and no protocol but
# the file itself.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,wav,mp3,flac,ogg,gif"
OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}

DECODE_ERRORS = (av.FFmpegError, MemoryError, AttributeError, LookupError, ValueError, OverflowError)
"""Errors of PyAV on bad bytes. Measured by fuzzing: `av.FFmpegError` alone misses about 1 % of broken files."""

MAX_READ_ERRORS = 1000

_REFERENCES = (b"#EXTM3U", b"ffconcat", b"[playlist]", b"v=0\r", b"v=0\n")
_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")
_CONTAINERS = (b"\x1aE\xdf\xa3", b"OggS", b"fLaC", b"ID3", b"GIF8", b"G@")


def check_path(path: str | os.PathLike[str]) -> Path:
    """Check that a path names a regular, readable file.

    The decoder would wait for ever on a pipe and fail unclearly on a folder, so the kind is checked first.

    Args:
        path: of a local file.

    Returns:
        The path.

    Raises:
        Blocked: the path is a URL.
        NotFound: nothing is there.
        NotAFile: a folder, pipe, socket or device is there.
        NotReadable: permission is missing.
        NotMedia: the file is empty.
        UsageError: ``path`` is not a path.
    """
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise UsageError(f"a media file is given by its path, got {type(path).__name__}")
    file = Path(os.fsdecode(path))
    if "://" in str(path) and not file.exists():
        raise Blocked(f"{describe_file(path)}: URLs are not fetched; download the file and give its path")
    try:
        state = file.stat()
    except PermissionError:
        raise NotReadable(f"{describe_file(file)}: permission denied; check the permissions of its folders") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a valid name"
        raise NotFound(f"{describe_file(file)}: can't be found ({reason}); check the path") from None
    mode = state.st_mode
    if not stat.S_ISREG(mode):
        raise NotAFile(f"{describe_file(file)} is a {_file_kind(mode)}, not a file; give the path of a media file")
    if not state.st_size:  # files of the kernel, such as /proc/kmsg, have no size either and may block a reader
        raise NotMedia(f"{describe_file(file)} is empty (0 bytes); give a media file")
    if not os.access(file, os.R_OK):
        raise NotReadable(f"{describe_file(file)}: permission denied; check the permissions of the file")
    return file


def open_container(file: Path) -> InputContainer:
    """Open a file with the format and protocol lists above.

    Args:
        file: checked by `check_path`.

    Raises:
        Blocked: the file is a playlist or another list of references.
        NotMedia: no allowed decoder recognises it.
        Damaged: its first bytes are those of a known container, but it can't be opened.
    """
    try:
        # "file:" and an absolute path, so that no name can be taken for a protocol ("concat:...") or an option ("-i").
        return av.open(f"file:{file.absolute()}", container_options=dict(OPTIONS), metadata_errors="ignore")
    except DECODE_ERRORS:
        _refuse(file)


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


def describe_file(path: object) -> str:
    """Return the path for a message of one line: short, without control characters."""
    text = str(path)
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= 300 else f"{text[:150]}...{text[-140:]}"


def _refuse(file: Path) -> NoReturn:
    """Raise the error that fits the first bytes. FFmpeg's own text may contain addresses, so it is left out."""
    try:
        with file.open("rb") as handle:
            head = handle.read(512)
    except OSError:
        raise NotReadable("can't be read; check the permissions of the file") from None
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head:
        raise NotMedia("is empty (0 bytes); give a media file")
    if start.startswith(_REFERENCES) or b"<MPD" in head:
        raise Blocked("is a list that refers to other files; give the media file itself")
    if start[:1] == b"<":
        raise NotMedia("is a web page or XML, not media; check whether its download needs a login")
    if head.startswith(_IMAGES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        raise NotMedia("is an image file; give a video or audio file")
    if head.startswith(_CONTAINERS) or head[4:8] in (b"ftyp", b"moov", b"mdat", b"free") or head[:4] == b"RIFF":
        raise Damaged("begins like media but is truncated or broken; get a complete copy of the file")
    raise NotMedia(f"is not recognised by any decoder; allowed formats are {FORMATS}")


def _file_kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")
