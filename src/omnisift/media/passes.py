"""Parts of reading in windows: decode packet by packet, and hand out images and samples before the clip ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Mapping
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
from av.container import InputContainer

from omnisift.media.audio import BLOCK, AudioCollector
from omnisift.media.clock import PADDING, SKEW
from omnisift.media.container import open_container
from omnisift.media.decoders import AudioDecoder, VideoDecoder
from omnisift.media.image import ImageCollector
from omnisift.media.reading import ClipReader
from omnisift.media.units import SAMPLE_RATE

D = TypeVar("D", VideoDecoder, AudioDecoder)

HELD = round(max(PADDING, SKEW) * SAMPLE_RATE) + 1
"""Samples at the end of the audio that may turn out to be padding."""


class DecodingPass(Generic[D]):
    """One pass over the packets of a file with one decoder, one packet at each step."""

    def __init__(self, reader: ClipReader, make_decoder: Callable[[InputContainer], D | None]) -> None:
        """Prepare a pass; the first step opens the file.

        Args:
            reader: knows the file and its tracks.
            make_decoder: returns the decoder of an open file; None without the track.
        """
        self.decoder: D | None = None
        self.read_errors = 0
        self._steps = self._run(reader, make_decoder)

    def step(self) -> bool:
        """Decode one more packet; returns whether there was one."""
        return next(self._steps, False)

    def close(self) -> None:
        """Close the file."""
        self._steps.close()

    def _run(self, reader: ClipReader, make_decoder: Callable[[InputContainer], D | None]) -> Generator[bool]:
        with open_container(reader.file) as container:
            self.decoder = make_decoder(container)
            decoders = [] if self.decoder is None else [self.decoder]
            for self.read_errors in reader.feed(container, decoders):
                yield True


class WaitingImages(ImageCollector):
    """Keeps images only until they are taken; `images` is an outline."""

    def __init__(self, moments: npt.NDArray[np.float64], factor: int, min_pixels: int, max_pixels: int) -> None:
        """Start without images; see `ImageCollector`."""
        super().__init__(moments, factor, min_pixels, max_pixels)
        self.waiting: dict[int, npt.NDArray[np.uint8]] = {}
        """By number, until the caller removes them. An image that stands for several moments is held once."""

    def _store(self, moment: int, image: npt.NDArray[np.uint8]) -> None:
        if self.images is None:
            self.images = np.broadcast_to(np.uint8(0), (len(self.moments), *image.shape))
        self.waiting[moment] = image


class SampleQueue(AudioCollector):
    """Keeps samples only until they are taken; `finish` returns an outline."""

    def __init__(self, seconds: float, total: int | None = None, block: float = BLOCK) -> None:
        """Start an empty waveform.

        Args:
            seconds: longest waveform to keep.
            total: its samples without padding; None if they are not known before the end.
            block: see `AudioCollector`.
        """
        super().__init__(seconds, block)
        self.total = total
        self._pieces: deque[npt.NDArray[np.float32]] = deque()
        self._taken = 0

    @property
    def ready(self) -> int:
        """Samples that can be taken."""
        end = self._written - HELD if self.total is None else min(self._written, self.total)
        return max(0, end - self._taken)

    def take(self, count: int) -> npt.NDArray[np.float32]:
        """Remove and return the first samples, [count] float32 within [-1, 1]; at most as many as are ready."""
        samples = np.empty(count, np.float32)
        filled = 0
        while filled < count:
            piece = self._pieces.popleft()
            used = min(len(piece), count - filled)
            samples[filled : filled + used] = piece[:used]
            filled += used
            if used < len(piece):
                self._pieces.appendleft(piece[used:])
        self._taken += count
        self._measure_peak(samples)
        return np.clip(samples, -1.0, 1.0, out=samples)

    def fill(self, until: int) -> None:
        """Write silence up to a sample, in place of audio that does not come; audio that comes later for it is lost."""
        self.drain()
        self._rate = 0  # the next frame begins a run at its own time
        if until > self._written:
            self._store(until - self._written, np.zeros(0, np.float32))
            self._written = self.end = until

    def finish(self, ends: Mapping[float, float]) -> npt.NDArray[np.float32]:
        """Find the end of the waveform without padding; the rest of it can then be taken, before `warnings` is called.

        Args:
            ends: see `AudioCollector.finish`.

        Returns:
            [S] float32 zeros that take no memory.
        """
        self.drain()
        self.total = self._length(ends)
        return np.broadcast_to(np.float32(0), (self.total,))

    def _store(self, silence: int, samples: npt.NDArray[np.float32]) -> None:
        if silence:
            self._pieces.append(np.broadcast_to(np.float32(0), (silence,)))
        self._pieces.append(samples)
