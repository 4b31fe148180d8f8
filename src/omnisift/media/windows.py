"""`open_windows`: the images and samples that `read` returns, window after window, so that memory does not grow."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from omnisift.errors import UsageError
from omnisift.media.arguments import ReadArguments
from omnisift.media.decoders import AudioDecoder, VideoDecoder
from omnisift.media.image import ImageCollector
from omnisift.media.lines import Line
from omnisift.media.passes import DecodingPass, SampleQueue, WaitingImages
from omnisift.media.reader import check_clip, name_in_errors, read, read_planned
from omnisift.media.reading import ClipReader
from omnisift.media.result import Media
from omnisift.media.source import MediaFile
from omnisift.media.units import SAMPLE_RATE

Samples: TypeAlias = "npt.NDArray[np.float32]"

PIECE = 30 * SAMPLE_RATE
"""Samples of each piece that ``on_samples`` gets; the last one may be shorter."""


CHANGED = "the file changed while it was read, so parts of what it was and of what it is may be mixed"


class WindowsUnavailable(Exception):
    """The file has to be read as a whole, by `read`: some of its images depend on parts that are far from them."""


@contextmanager
def open_windows(
    path: MediaFile, *, on_samples: Callable[[Samples], object] | None = None, **arguments: Any
) -> Iterator[ClipWindows]:
    """Open a clip whose images and samples are read in windows; joined they are what `read` returns, bit for bit.

    Opening reads the headers of all packets, decodes the first image, and decodes the audio without keeping it, because
    only then its length is known.

        with open_windows("talk.mp4", max_frames=7200) as windows:
            for stop in range(60, len(windows.media.images) + 60, 60):
                images = windows.images(stop)  # [60, H, W, 3], fewer in the last window
                samples = windows.samples(stop * 8000)  # the same 30 seconds
            media = windows.finish()

    Args:
        path: as in `read`. A file object must stay open within the block; between calls it has its own position.
        on_samples: called while the clip is opened, with all of the waveform in pieces of `PIECE` samples.
        arguments: those of `read`. ``read_timeout`` holds for all windows together and counts the time of reading
            alone, not what passes between the calls or in ``on_samples``.

    Returns:
        A context manager that gives the windows.

    Raises:
        MediaError: the file can't be read, as in `read`.
        UsageError: arguments are wrong, or select no part of the file.
        WindowsUnavailable: the file has to be read as a whole; later calls may find that too.
    """
    windows = ClipWindows(path, _all_arguments(path, arguments))
    try:
        windows.open(on_samples)
        yield windows
    finally:
        windows.close()


def read_or_open(
    path: MediaFile, longest: int, *, on_samples: Callable[[Samples], object] | None = None, **arguments: Any
) -> Media | ClipWindows:
    """Read a clip as `read` does if it has few images; open one with more, which the caller closes.

    Args:
        path: as in `read`.
        longest: images of the longest clip that is read.
        on_samples: as in `open_windows`, which describes the other arguments and the errors too.
        arguments: those of `read`.
    """
    windows = ClipWindows(path, _all_arguments(path, arguments))
    try:
        media = windows.read_short(longest)
        if media is None:
            windows.open(on_samples)
            return windows
    except BaseException:
        windows.close()
        raise
    windows.close()
    return media


def _all_arguments(path: MediaFile, given: dict[str, Any]) -> ReadArguments:
    """The arguments of `read`, with its defaults."""
    call = inspect.signature(read).bind(path, **given)
    call.apply_defaults()
    del call.arguments["path"]
    return ReadArguments(**call.arguments)


class ClipWindows:
    """A clip whose images and samples are read in order; `open_windows` makes it.

    Images and samples come from two passes over the file: neither waits for the other, and nothing is kept for a caller
    that is ahead on one side. Beyond a window, memory holds the index of the packets, the decoders, and what one packet
    gives. Calls from several threads wait for each other.
    """

    media: Media
    """As `read` returns it, but images and waveform are outlines: read-only arrays of the right shape and type without
    data. Until `finish`, damage of the video is not among the warnings, and times are those that the file states."""

    def __init__(self, path: MediaFile, arguments: ReadArguments) -> None:
        """Check the arguments; `open` does the rest."""
        arguments.check()
        self._arguments = arguments
        self._budget = arguments.budget()
        self._file = check_clip(path)
        self._state = self._file.state()
        self._budget.pause()
        self._lock = threading.Lock()
        self._is_closed = False
        self._reader: ClipReader
        self._is_planned = False
        self._video: DecodingPass[VideoDecoder] | None = None
        self._first_audio: DecodingPass[AudioDecoder] | None = None
        self._audio: DecodingPass[AudioDecoder] | None = None
        self._queue = SampleQueue(0.0, total=0)
        self._waiting: dict[int, npt.NDArray[np.uint8]] = {}
        self._next_image = 0
        self._next_sample = 0

    @property
    def lines(self) -> tuple[Line, ...]:
        """Lines of text with their times, in order of their start; all of them are known once the clip is opened."""
        return self.media.lines

    def read_short(self, longest: int) -> Media | None:
        """Read the clip as `read` does if it has at most so many images; else None."""

        def collector(moments: npt.NDArray[np.float64], *sizes: int) -> ImageCollector:
            return (ImageCollector if len(moments) <= longest else WaitingImages)(moments, *sizes)

        with self._reading():
            reader = self._reader = self._arguments.plan(self._file, self._budget, collector)
            self._is_planned = True
            if isinstance(reader.image_collector, WaitingImages):
                return None
            return read_planned(reader, self._arguments, self._file, self._budget)

    def open(self, on_samples: Callable[[Samples], object] | None) -> None:
        """Learn everything but the images; see `open_windows`."""
        with self._reading():
            if not self._is_planned:
                self._reader = self._arguments.plan(self._file, self._budget, WaitingImages)
            collector = self._reader.image_collector
            if isinstance(collector, WaitingImages):
                self._waiting = collector.waiting
                self._video = DecodingPass(self._reader, self._reader.video_decoder)
                # The first image tells the size.
                while collector.images is None:
                    self._decode_image()
        if self._reader.audio_collector is not None:
            for piece in self._decode_audio():
                if on_samples is not None:
                    on_samples(piece)
        with self._reading():
            self.media = self._result(strict=False)
            self._check_strictly()

    def images(self, stop: int) -> npt.NDArray[np.uint8]:
        """Return the next images.

        Args:
            stop: number of the first image that is left for the next call; all are returned if it is too large.

        Returns:
            [n, H, W, 3] uint8; none without video.

        Raises:
            MediaError: more time or work is needed than `open_windows` was given; with ``strict``, packets are damaged.
            WindowsUnavailable: the file has to be read as a whole.
        """
        if self.media.images is None:
            return np.zeros((0, 0, 0, 3), np.uint8)
        count, *shape = self.media.images.shape
        with self._reading():
            images = np.empty((max(0, min(stop, count) - self._next_image), *shape), np.uint8)
            for image in images:
                while self._next_image not in self._waiting:
                    self._decode_image()
                image[:] = self._waiting.pop(self._next_image)
                self._next_image += 1
            if self._next_image == count:
                self._decode_rest()
            self._check_strictly()
        return images

    def samples(self, stop: int) -> Samples:
        """Return the next samples.

        Args:
            stop: number of the first sample that is left for the next call; all are returned if it is too large.

        Returns:
            [n] float32 within [-1, 1]; none without audio.

        Raises:
            MediaError: more time is needed than `open_windows` was given.
            WindowsUnavailable: the file has changed since it was opened.
        """
        if self.media.waveform is None:
            return np.zeros(0, np.float32)
        with self._reading():
            if self._audio is None:
                queue = self._queue = SampleQueue(self._reader.until, len(self.media.waveform))
                self._audio = DecodingPass(self._reader, lambda file: self._reader.audio_decoder(file, queue))
            count = max(0, min(stop, len(self.media.waveform)) - self._next_sample)
            while self._queue.ready < count:
                if not self._audio.step():
                    self._queue.drain()
                    break
            if self._queue.ready < count:
                raise WindowsUnavailable("the audio is shorter than it was when the file was opened")
            self._next_sample += count
            return self._queue.take(count)

    def finish(self) -> Media:
        """Return the final `media`, with all warnings; images that are left are decoded for them, but not kept.

        Raises:
            MediaError: as in `images`.
            WindowsUnavailable: the file has to be read as a whole.
        """
        while len(self.images(self._next_image + 1)):
            pass
        with self._reading():
            self._reader.bad_packets = self._bad_packets()
            if self._video is not None:
                self._reader.count_unavailable()
            if self._file.state() not in (self._state, None) and CHANGED not in self._reader.warnings:
                self._reader.warnings.append(CHANGED)
            self.media = self._result(strict=False)
        return self.media

    def close(self) -> None:
        """Close the file, after the end of a call in another thread."""
        with self._lock:
            self._is_closed = True
            for one in (self._video, self._first_audio, self._audio):
                if one is not None:
                    one.close()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Whatever touches the file: one call at a time, timed, and with the errors of `read`."""
        with self._lock:
            if self._is_closed:
                raise UsageError("the clip's windows are closed; read them within the block of open_windows")
            self._budget.resume()
            try:
                with name_in_errors(self._file), self._file.opened(self._budget):
                    yield
            finally:
                self._budget.pause()

    def _decode_image(self) -> None:
        """Decode one more packet of the video."""
        if not self._step_video():
            raise WindowsUnavailable("some images are missing; others stand for them")

    def _decode_rest(self) -> None:
        """Decode to the end of the video, which tells whether the last images were right; keeps none."""
        while self._video is not None and self._step_video():
            self._waiting.clear()

    def _check_strictly(self) -> None:
        """With ``strict``, raise at the first damaged packet, but with the number of all."""
        if self._arguments.strict and self._bad_packets():
            self._decode_rest()
            self._result(strict=True)

    def _step_video(self) -> bool:
        assert self._video is not None
        assert self._reader.image_collector is not None
        going = self._video.step()
        if self._video.decoder is not None and self._video.decoder.bad_starts:
            raise WindowsUnavailable("decoding can't start at a packet that claims to be a key frame")
        if self._reader.image_collector.late:
            raise WindowsUnavailable("frames come in another order than their times say")
        return going

    def _decode_audio(self) -> Iterator[Samples]:
        """Decode all audio, to learn its length and what is unusual; yields it in pieces."""
        reader = self._reader
        queue = reader.audio_collector = SampleQueue(reader.until)
        audio = self._first_audio = DecodingPass(reader, lambda file: reader.audio_decoder(file, queue))
        going = True
        while going:
            with self._reading():
                while going and queue.ready < PIECE:
                    going = audio.step()
                if not going:
                    reader.lead_in = audio.decoder.lead_in if audio.decoder is not None else 0.0
                    queue.finish(reader.audio_ends)
            while queue.ready >= (PIECE if going else 1):
                yield queue.take(min(PIECE, queue.ready))

    def _bad_packets(self) -> int:
        """Damaged packets so far."""
        passes = [one for one in (self._video, self._first_audio) if one is not None]
        # Both passes meet the same read errors.
        errors = max((one.read_errors for one in passes), default=0)
        return errors + sum(one.decoder.bad_packets for one in passes if one.decoder is not None)

    def _result(self, strict: bool) -> Media:
        """What is known so far."""
        self._reader.bad_packets = self._bad_packets()
        reader = replace(self._reader, warnings=list(self._reader.warnings))
        return reader.result(self._arguments.require_video, self._arguments.require_audio, strict)
