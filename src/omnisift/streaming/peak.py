"""`PeakMeter`: the largest value of a file's spectrogram, which sets the floor of its stream exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from omnisift.pipeline.clip_format import hears
from omnisift.pipeline.preparation import padded_length
from omnisift.pipeline.spectrogram import LogMel


class PeakMeter:
    """Measures a waveform that comes in parts, for the ``peak`` of `omnisift.Pipeline.stream`.

        meter = PeakMeter(pipe.host.processor)
        source = omnisift.open_stream("talk.mp4", on_samples=meter.add)
        session = pipe.stream(peak=meter.peak())

    Args:
        processor: of the model.
    """

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._mel = LogMel(processor.feature_extractor) if hears(processor) else None

    def add(self, samples: npt.NDArray[np.float32]) -> None:
        """Take the next samples, [N] float32 of one channel at 16 kHz."""
        if self._mel is not None:
            self._mel.add(samples)

    def peak(self) -> float | None:
        """The largest value of the complete waveform; None without samples, and for a model that takes no audio."""
        if self._mel is None or not self._mel.samples:
            return None
        self._mel.finish(padded_length(self._processor, self._mel.samples))
        return self._mel.peak
