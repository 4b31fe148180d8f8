"""`open_stream`: a file, a pipe, an address, a camera or a microphone as a stream of pieces."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, TypeAlias

from omnisift.errors import Blocked, MediaError, NotReadable, UsageError
from omnisift.media import live_bytes
from omnisift.media.arguments import ReadArguments
from omnisift.media.container import open_container
from omnisift.media.image import FrameScaler
from omnisift.media.live_decode import LiveFeed
from omnisift.media.live_file import FileFeed, file_arguments
from omnisift.media.live_inputs import STORED_PATIENCE, LiveInput, open_bytes, open_device, open_rtsp
from omnisift.media.live_order import StreamOrder
from omnisift.media.live_warnings import StreamWarning, WarningLog
from omnisift.media.pieces import Piece
from omnisift.media.source import check_source, describe_file
from omnisift.media.units import SAMPLE_RATE
from omnisift.media.windows import Samples, WindowsUnavailable

StreamSource: TypeAlias = "str | os.PathLike[str] | BinaryIO"
"""What `open_stream` takes."""

READ_TIMEOUT = 30.0
"""Seconds for which a live source may send nothing."""
LIVE_SPEED = 1.1
"""Seconds of a live stream in one second at most: what a server sends at once would be more than a model can read."""
CLOSE_TIMEOUT = 2.0
"""Seconds that `LiveSource.close` waits for a read of another thread."""
DEVICES = ("camera", "microphone")
IN_ONE_PASS = "the file has to be decoded in one pass; images may differ from those of omnisift.read"


class Timer(Protocol):
    """A clock that a stream is paced by."""

    def now(self) -> float:
        """Seconds on a clock that never goes back."""

    def wait(self, seconds: float, stopped: threading.Event) -> None:
        """Wait so long, or until ``stopped`` is set."""


class MonotonicTimer:
    """The monotonic clock of the system."""

    def now(self) -> float:
        """Seconds on a clock that never goes back."""
        return time.monotonic()

    def wait(self, seconds: float, stopped: threading.Event) -> None:
        """Wait so long, or until ``stopped`` is set."""
        stopped.wait(seconds)


class Feed(Protocol):
    """What makes the pieces of a source: `FileFeed` or `LiveFeed`."""

    is_live: bool
    has_video: bool
    has_audio: bool
    seconds: float | None
    tags: Mapping[str, str]
    order: StreamOrder

    def pieces(self) -> Iterator[Piece]:
        """Yield the pieces in order of time."""

    def stop(self) -> None:
        """End the stream soon, from any thread."""

    def close(self) -> None:
        """Free what is open."""


class LiveSource:
    """The pieces of a stream, in order of time from 0; `open_stream` makes it.

        with open_stream("talk.mp4", speed=1.0) as source:
            for piece in source:
                ...

    It is read once, by one thread. Images come at ``k / fps`` seconds; samples come in pieces of at most a quarter of a
    second, without gaps, and none reaches beyond the next image.
    """

    def __init__(
        self,
        name: str,
        feed: Feed,
        log: WarningLog,
        *,
        speed: float | None = None,
        timer: Timer | None = None,
        fall_back: Callable[[], Feed] | None = None,
    ) -> None:
        """Take an open feed.

        Args:
            name: of the source, for messages.
            feed: makes the pieces.
            log: the warnings of the feed.
            speed: seconds of stream in one second; None does not wait. Live feeds have `LIVE_SPEED` at most.
            timer: the clock for ``speed``.
            fall_back: opens the feed that continues where ``feed`` can't.
        """
        self.name = name
        self.has_video, self.has_audio = feed.has_video, feed.has_audio
        self.is_live = feed.is_live or speed is not None
        """Whether pieces come at a speed of their own, so that a slow reader falls behind; else they wait for it."""
        self.seconds = feed.seconds
        """Length of the stream; None if it is unknown or endless."""
        self.tags = feed.tags
        """The container's own metadata (title, comment ...), keys in lower case."""
        self._feed, self._log, self._fall_back = feed, log, fall_back
        self._speed, self._timer = LIVE_SPEED if feed.is_live else speed, timer or MonotonicTimer()
        self._stopped = threading.Event()
        self._reading = threading.Lock()
        self._is_closed = False

    @property
    def warnings(self) -> tuple[StreamWarning, ...]:
        """What was unusual so far."""
        return self._log.all()

    def __enter__(self) -> LiveSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.close()

    def __iter__(self) -> Iterator[Piece]:
        start: float | None = None
        pieces = self._pieces()
        while (piece := self._next(pieces)) is not None:
            if self._speed is not None:
                due = _end(piece) / self._speed
                start = self._timer.now() - due if start is None else start
                left = start + due - self._timer.now()
                if left > 0:
                    self._timer.wait(left, self._stopped)
            if self._stopped.is_set():
                return
            yield piece

    def stop(self) -> None:
        """End the iteration, from any thread; one that waits for data ends within a moment.

        Where FFmpeg waits by itself (RTSP, devices), it ends with the next data, or after ``read_timeout``.
        """
        self._stopped.set()
        self._feed.stop()

    def close(self) -> None:
        """Free what is open. Where another thread still waits for data, it does so itself when it gets them."""
        self._is_closed = True
        if self._reading.acquire(timeout=CLOSE_TIMEOUT):
            try:
                self._feed.close()
            finally:
                self._reading.release()

    def _next(self, pieces: Iterator[Piece]) -> Piece | None:
        """The next piece; None at the end, and after `close`."""
        with self._reading, _named(self.name):
            piece = None if self._is_closed else next(pieces, None)
            if self._is_closed:
                self._feed.close()
                return None
            return piece

    def _pieces(self) -> Iterator[Piece]:
        try:
            yield from self._feed.pieces()
        except WindowsUnavailable:
            if self._fall_back is None:
                raise
            before = self._feed
            before.close()
            self._feed = self._fall_back()
            self._log.add("order", IN_ONE_PASS, before.order.image_time)
            # The pieces up to here are known.
            for piece in self._feed.pieces():
                done = before.order.image_time if piece.image is not None else before.order.sample_time
                if piece.time > done - 0.5 / SAMPLE_RATE:
                    yield piece


def open_stream(
    source: StreamSource,
    *,
    fps: float = 2.0,
    speed: float | None = None,
    video: bool = True,
    audio: bool = True,
    min_pixels: int = 128 * 784,
    max_pixels: int = 320 * 784,
    factor: int = 28,
    allow_addresses: bool = False,
    read_timeout: float = READ_TIMEOUT,
    on_samples: Callable[[Samples], object] | None = None,
    timer: Timer | None = None,
) -> LiveSource:
    """Open a stream of images and samples.

    The pieces of a file are, bit for bit, the images and samples of `omnisift.media.read`, without its limits on length
    and number of images. Time is 0 at the first image, or at the first audio if that is more than 0.1 s earlier. Jumps
    of a stream's time stamps and packets that can't be decoded become `LiveSource.warnings`.

    Args:
        source: path of a file or a named pipe; ``-`` for standard input; ``camera:0``, ``microphone:default``; an
            address of http, https, rtsp, tcp or udp; or a binary file object. What can't seek must be MPEG-TS,
            Matroska, fragmented MP4 or another format that is read from its beginning.
        fps: images per second.
        speed: seconds of stream in one second, 1 for real speed; None does not wait. Devices, and addresses that don't
            state the size of what they send, are live: they have their own speed.
        video: whether to read the video track.
        audio: whether to read the audio track.
        min_pixels: smallest area of one image, see `omnisift.media.smart_size`.
        max_pixels: largest area of one image.
        factor: both sides of an image are multiples of this.
        allow_addresses: whether ``source`` may be an address.
        read_timeout: seconds for which a pipe, an address or a device may send nothing.
        on_samples: called with the waveform of a file, in parts, while it is opened; never for other sources.
        timer: the clock for ``speed``; None is the monotonic clock.

    Raises:
        Blocked: an address is given and not allowed.
        MediaError: the source can't be opened.
        UsageError: an argument is wrong or out of range.
    """
    arguments = file_arguments(fps, video, audio, factor, min_pixels, max_pixels)
    arguments.check()
    _check(speed, read_timeout)
    log, name = WarningLog(), _name(source)

    def fall_back() -> Feed:
        return _live_feed(_stored_input(source), arguments, log)

    with _named(name):
        opened = _open_input(source, read_timeout, allow_addresses=allow_addresses)
        if opened is not None:
            _check_own_speed(opened, speed)
            feed: Feed = _live_feed(opened, arguments, log)
            return LiveSource(name, feed, log, speed=speed, timer=timer)
        try:
            feed = FileFeed(source, arguments, log, on_samples)
        except WindowsUnavailable:
            log.add("order", IN_ONE_PASS)
            feed = fall_back()
    return LiveSource(name, feed, log, speed=speed, timer=timer, fall_back=fall_back)


def check_stream_source(source: str, *, allow_addresses: bool) -> None:
    """Check a source as far as that is possible without opening it.

    Raises:
        Blocked: it is an address, and those are not allowed.
        MediaError: it is not a file that can be read, nor anything else.
        UsageError: it is a malformed address.
    """
    if is_address(source):
        with _named(_name(source)):
            _check_address(source, allow_addresses)
    elif is_stored(source):
        check_source(source)


def is_address(source: object) -> bool:
    """Whether a source is an address, and no path, device or standard input."""
    return isinstance(source, str) and "://" in source and not Path(source).exists()


def is_device(source: object) -> bool:
    """Whether a source is a camera or a microphone."""
    return isinstance(source, str) and source.partition(":")[0] in DEVICES and ":" in source


def is_stored(source: str) -> bool:
    """Whether a source is a file, which can be read more than once."""
    return not (source == "-" or is_address(source) or is_device(source) or Path(source).is_fifo())


def _open_input(source: StreamSource, read_timeout: float, *, allow_addresses: bool) -> LiveInput | None:
    """Open what can't seek; None for a file."""
    if is_address(source):
        return _open_address(str(source), read_timeout, allow_addresses=allow_addresses)
    if isinstance(source, str):
        if source == "-":
            content = live_bytes.from_descriptor(_standard_input(), source, read_timeout, owned=False)
            return open_bytes(content, read_timeout, is_live=False)
        if is_device(source):
            kind, _, name = source.partition(":")
            return open_device(kind, name or ("0" if kind == "camera" else "default"), read_timeout)
    if isinstance(source, (str, os.PathLike)):
        if not Path(source).is_fifo():
            return None
        return open_bytes(live_bytes.from_fifo(os.fspath(source), read_timeout), read_timeout, is_live=False)
    can_seek = getattr(source, "seekable", lambda: True)
    if hasattr(source, "read") and not can_seek():
        return open_bytes(live_bytes.from_object(source, _name(source)), read_timeout, is_live=False)
    return None


def _standard_input() -> int:
    """The descriptor of standard input."""
    try:
        return sys.stdin.fileno()
    except (OSError, ValueError, AttributeError):
        raise NotReadable("is closed; pipe a stream into the command") from None


def _open_address(url: str, read_timeout: float, *, allow_addresses: bool) -> LiveInput:
    if _check_address(url, allow_addresses) in ("rtsp", "rtsps"):
        return open_rtsp(url, live_bytes.shown_address(url), read_timeout)
    content = live_bytes.from_address(url, read_timeout)
    return open_bytes(content, read_timeout, is_live=not content.has_length)


def _check_address(url: str, allow_addresses: bool) -> str:
    """Check that an address may be opened; returns its scheme."""
    if not allow_addresses:
        raise Blocked(
            "addresses are not opened; allow them (--allow-address, allow_addresses=True), or pipe the stream"
        )
    return live_bytes.split_address(url).scheme


def _stored_input(source: StreamSource) -> LiveInput:
    """A file that is read once, packet by packet."""
    file = check_source(source)
    return LiveInput(str(file), open_container(file), math.inf, is_live=False, patience=STORED_PATIENCE)


def _live_feed(opened: LiveInput, arguments: ReadArguments, log: WarningLog) -> LiveFeed:
    scaler = FrameScaler(arguments.factor, arguments.min_pixels, arguments.max_pixels)
    try:
        return LiveFeed(opened, arguments.fps, arguments.video, arguments.audio, scaler, log)
    except BaseException:
        opened.close()
        raise


def _check(speed: float | None, read_timeout: float) -> None:
    if speed is not None and not (isinstance(speed, Real) and 0 < speed < math.inf):
        raise UsageError(f"speed must be above 0, or None to read without waiting, got {speed!r}")
    if not (isinstance(read_timeout, Real) and read_timeout > 0):
        raise UsageError(f"read_timeout must be above 0 seconds, got {read_timeout!r}")


def _check_own_speed(opened: LiveInput, speed: float | None) -> None:
    if opened.is_live and speed not in (None, 1):
        opened.close()
        raise UsageError(f"{opened.name} is live and has its own speed; leave speed out, got {speed:g}")


def _name(source: StreamSource) -> str:
    if is_address(source):
        return describe_file(live_bytes.shown_address(str(source)))
    if isinstance(source, (str, os.PathLike)):
        return "standard input" if source == "-" else describe_file(os.fsdecode(source))
    name: Any = getattr(source, "name", None)
    return describe_file(name) if isinstance(name, str) else f"<{type(source).__name__}>"


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put the source's name in front of media errors."""
    try:
        yield
    except MediaError as error:
        text = str(error)
        raise (error if text.startswith(f"{name}") else type(error)(f"{name}: {text}")) from None


def _end(piece: Piece) -> float:
    """Seconds: when a piece is complete."""
    return piece.time + (0 if piece.samples is None else len(piece.samples) / SAMPLE_RATE)
