"""Clips that are read once from their beginning to their end: of a file, or decoded."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from omnisift.media import SAMPLE_RATE, ClipWindows, Media
from omnisift.pipeline.preparation import padded_length
from omnisift.pipeline.prompt import heard_by
from omnisift.pipeline.spectrogram import LogMel

_MOST_SAMPLES = 300 * SAMPLE_RATE
"""Samples whose spectrogram is held: 15 MB."""
_PIECE = 60 * SAMPLE_RATE
"""Samples of which the largest value is searched at once."""


class ClipSource(Protocol):
    """A clip that is read once from its beginning to its end."""

    @property
    def media(self) -> Media:
        """The clip, whose images and waveform need not hold data."""

    def images(self, stop: int) -> npt.NDArray[np.uint8]:
        """[n, H, W, 3]: the next images, up to number ``stop``."""

    def samples(self, stop: int) -> npt.NDArray[np.float32]:
        """[n]: the next samples of the waveform, up to number ``stop``."""

    @property
    def spectrum(self) -> Tensor | None:
        """[M, F]: the clip's spectrogram before its floor; None if it is computed piece by piece."""

    @property
    def peak(self) -> float:
        """The largest value of the clip's spectrogram, before its floor; of no meaning without audio."""

    def finish(self) -> Media:
        """Return the clip as it is known at its end, with all warnings."""

    def close(self) -> None:
        """Close the file."""


class DecodedSource:
    """The `ClipSource` of a clip that is decoded.

    Args:
        media: the clip.
        processor: of the model.
    """

    def __init__(self, media: Media, processor: Any) -> None:
        self.media, self._processor = media, processor
        self._image = self._sample = 0

    def images(self, stop: int) -> npt.NDArray[np.uint8]:
        """The next images, up to number ``stop``."""
        assert self.media.images is not None
        begin, self._image = self._image, stop
        return self.media.images[begin:stop]

    def samples(self, stop: int) -> npt.NDArray[np.float32]:
        """The next samples, up to number ``stop``."""
        assert self.media.waveform is not None
        begin, self._sample = self._sample, stop
        return self.media.waveform[begin:stop]

    @cached_property
    def spectrum(self) -> Tensor | None:
        """The spectrogram, as `LogMel` has it; None for a clip of more than five minutes, or without audio."""
        waveform = self.media.waveform
        if waveform is None or len(waveform) > _MOST_SAMPLES:
            return None
        mel = LogMel(self._processor.feature_extractor)
        return torch.cat([mel.add(waveform), mel.finish(padded_length(self._processor, mel.samples))], dim=1)

    @cached_property
    def peak(self) -> float:
        """The largest value of the clip's spectrogram."""
        waveform = self.media.waveform
        if waveform is None:
            return 0.0
        if self.spectrum is not None:
            return float(self.spectrum.max())
        mel = LogMel(self._processor.feature_extractor)
        for piece in np.array_split(waveform, -(-len(waveform) // _PIECE)):
            mel.add(piece)
        mel.finish(padded_length(self._processor, mel.samples))
        return mel.peak

    def finish(self) -> Media:
        """The clip."""
        return self.media

    def close(self) -> None:
        """Do nothing: no file is open."""


class FileSource:
    """The `ClipSource` of a file.

    Args:
        windows: from `omnisift.media.read_or_open`.
        mel: has seen all samples of the clip.
        processor: of the model.
    """

    def __init__(self, windows: ClipWindows, mel: LogMel | None, processor: Any) -> None:
        self._windows, self._mel, self._processor = windows, mel, processor
        self.media = heard_by(processor, windows.media)
        self.spectrum = None

    def images(self, stop: int) -> npt.NDArray[np.uint8]:
        """The next images, up to number ``stop``."""
        return self._windows.images(stop)

    def samples(self, stop: int) -> npt.NDArray[np.float32]:
        """The next samples, up to number ``stop``."""
        return self._windows.samples(stop)

    @cached_property
    def peak(self) -> float:
        """The largest value of the clip's spectrogram."""
        if self._mel is None or self.media.waveform is None:
            return 0.0
        self._mel.finish(padded_length(self._processor, self._mel.samples))
        return self._mel.peak

    def finish(self) -> Media:
        """The clip with all warnings."""
        return heard_by(self._processor, self._windows.finish())

    def close(self) -> None:
        """Close the file."""
        self._windows.close()
