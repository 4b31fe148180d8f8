"""`LiveInput`: open what a stream comes from: standard input, a pipe, an address, a camera or a microphone.

FFmpeg gets no protocol but RTSP: pipes, HTTP, TCP and UDP are read here, so a read can be ended from another thread,
and what is sent can refer to no other file or address.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import av
from av.container import InputContainer

from omnisift.errors import Blocked, NotMedia, NotReadable
from omnisift.media.container import DECODE_ERRORS, OBJECT_OPTIONS
from omnisift.media.live_bytes import ByteInput, late
from omnisift.media.signatures import FORMATS

LIVE_PATIENCE = 2.0
"""Seconds of stream for which a piece waits for the other track, where the tracks come as they are recorded."""
STORED_PATIENCE = 10.0
"""The same where they come in fragments of a file, of which each holds the images first."""

_RTSP_OPTIONS = {
    "format_whitelist": f"rtsp,{FORMATS}",
    "protocol_whitelist": "rtsp,rtsps,rtp,srtp,tcp,udp,tls,crypto",
    "rtsp_transport": "tcp",
}


@dataclass(frozen=True)
class Device:
    """How FFmpeg opens a camera or a microphone."""

    format: str
    """Name of the input device's kind."""
    file: str
    """Name of the device."""
    options: tuple[tuple[str, str], ...] = ()


_DEVICES: dict[tuple[str, str], Callable[[str], Device]] = {
    ("camera", "linux"): lambda name: Device("v4l2", f"/dev/video{name}" if name.isdigit() else name),
    ("camera", "darwin"): lambda name: Device("avfoundation", f"{name}:none", (("framerate", "30"),)),
    ("camera", "win32"): lambda name: Device("dshow", f"video={name}"),
    ("microphone", "linux"): lambda name: Device("alsa", name),
    ("microphone", "darwin"): lambda name: Device("avfoundation", f"none:{name}"),
    ("microphone", "win32"): lambda name: Device("dshow", f"audio={name}"),
}


class LiveInput:
    """An open container that is read once, with what ends a read."""

    def __init__(
        self,
        name: str,
        container: InputContainer,
        read_timeout: float,
        content: ByteInput | None = None,
        *,
        is_live: bool = True,
        patience: float = LIVE_PATIENCE,
    ) -> None:
        """Take an open container.

        Args:
            name: for messages.
            container: the open container.
            read_timeout: for messages; who opened the container has set it.
            content: what the container reads; None where FFmpeg reads by itself.
            is_live: whether the stream comes at its own speed and can't wait.
            patience: see `LIVE_PATIENCE`.
        """
        self.name, self.container, self.is_live, self.patience = name, container, is_live, patience
        self._read_timeout = read_timeout
        self._content = content
        self._stopped = threading.Event()

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped.is_set()

    def check(self, error: BaseException | None) -> None:
        """Raise what ended the stream; return if it was a broken packet, or the end.

        Args:
            error: what PyAV raised; None at the end of the stream.

        Raises:
            MediaTimeout: no data came in time.
            NotReadable: the connection was lost.
        """
        if self._content is not None:
            self._content.raise_failure()
        elif error is not None:
            _raise_of_system(error, self._read_timeout)

    def stop(self) -> None:
        """End a read of another thread, where FFmpeg does not read by itself, and all later ones."""
        self._stopped.set()
        if self._content is not None:
            self._content.stop()

    def close(self) -> None:
        """Close the container."""
        self.container.close()
        if self._content is not None:
            self._content.close()


def open_bytes(content: ByteInput, read_timeout: float, *, is_live: bool) -> LiveInput:
    """Open a stream of bytes, whose container is recognised by its beginning.

    Args:
        content: the bytes.
        read_timeout: seconds for which data may be missing.
        is_live: whether the stream comes at its own speed.

    Raises:
        MediaTimeout: no data come in time.
        MediaError: no allowed decoder recognises the stream, or it can't be read.
    """
    try:
        container = av.open(
            content, "r", container_options=dict(OBJECT_OPTIONS), metadata_errors="ignore", io_open=_refuse_opening
        )
    except DECODE_ERRORS:
        content.close()
        content.raise_failure()
        raise NotMedia(
            "is not recognised as media that can be read without seeking; send MPEG-TS, Matroska or fragmented MP4"
        ) from None
    patience = LIVE_PATIENCE if is_live else STORED_PATIENCE
    return LiveInput(content.name, container, read_timeout, content, is_live=is_live, patience=patience)


def open_rtsp(url: str, name: str, read_timeout: float) -> LiveInput:
    """Open a stream of an RTSP server, over TCP.

    Args:
        url: the address.
        name: the address without password, for messages.
        read_timeout: seconds for which data may be missing.

    Raises:
        MediaTimeout: the server does not answer in time.
        NotReadable: it can't be reached, or does not play.
    """
    return _open_by_ffmpeg(name, read_timeout, url, None, _RTSP_OPTIONS, "check the address and that the server plays")


def open_device(kind: str, name: str, read_timeout: float) -> LiveInput:
    """Open a camera or a microphone through FFmpeg's input device of this system.

    Args:
        kind: ``camera`` or ``microphone``.
        name: its number or name.
        read_timeout: seconds for which data may be missing.

    Raises:
        NotReadable: there is no such device, or this build of PyAV can't open one.
    """
    make = _DEVICES.get((kind, sys.platform))
    device = None if make is None else make(name)
    if device is None or device.format not in av.formats_available:
        used = sys.platform if device is None else device.format
        hint = "record with the ffmpeg program and pipe it: ffmpeg ... -f mpegts - | omnisift watch -"
        raise NotReadable(f"this build of PyAV opens no {kind} ({used}); {hint}")
    options = dict(device.options)
    return _open_by_ffmpeg(
        f"{kind}:{name}", read_timeout, device.file, device.format, options, f"check the {kind}'s name and permissions"
    )


def _open_by_ffmpeg(
    name: str, read_timeout: float, file: str, container_format: str | None, options: dict[str, str], hint: str
) -> LiveInput:
    begin = time.monotonic()
    try:
        container = av.open(
            file,
            format=container_format,
            container_options=dict(options),
            metadata_errors="ignore",
            timeout=(read_timeout, read_timeout),
        )
    except DECODE_ERRORS as error:
        _raise_of_system(error, read_timeout)
        if time.monotonic() - begin >= read_timeout:  # what FFmpeg says then is only a consequence
            raise late(read_timeout) from None
        raise NotReadable(f"can't be opened ({type(error).__name__}); {hint}") from None
    return LiveInput(name, container, read_timeout)


def _raise_of_system(error: BaseException, read_timeout: float) -> None:
    """Raise the error that fits one of the system or of a network; return for broken data."""
    if isinstance(error, (av.error.ExitError, TimeoutError)):
        raise late(read_timeout)
    if isinstance(error, OSError) and not isinstance(error, BlockingIOError):
        reason = error.strerror or type(error).__name__
        raise NotReadable(f"can't be read ({reason}); check the device or the address")


def _refuse_opening(*_arguments: Any) -> Any:
    """What FFmpeg gets where a stream asks for another file."""
    raise Blocked("refers to another file; give the media itself")
