"""The log-mel spectrogram of a long waveform, piece by piece, as Transformers' feature extractor has it at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_SMALLEST = 1e-10
"""Power below which the logarithm is not taken."""
_RANGE = 8.0
"""Powers of ten between the loudest cell of a clip and the floor of its spectrogram."""


class LogMel:
    """The spectrogram of one waveform, whose samples come in pieces.

    Frame ``k`` sees the samples within half a Fourier window of sample ``k * hop``, so the last frames of a piece wait
    for the next one. Before the waveform its first samples are reflected; behind it are zeros up to the length that the
    feature extractor pads it to, and then a reflection.

    Args:
        extractor: a ``WhisperFeatureExtractor``.
        after_silence: whether silence is before the first sample instead, as where a stream resumes.
    """

    def __init__(self, extractor: Any, *, after_silence: bool = False) -> None:
        self._fourier, self._hop = int(extractor.n_fft), int(extractor.hop_length)
        self._half = self._fourier // 2
        self._filters = torch.from_numpy(extractor.mel_filters).to(torch.float32).T
        self._hann = torch.hann_window(self._fourier)
        self._buffer = np.zeros(self._half if after_silence else 0, np.float32)
        self._begins = not after_silence
        self.samples = 0
        """Samples so far."""
        self.peak = float("-inf")
        """The largest value so far, before `limited`."""

    def add(self, samples: npt.NDArray[np.float32]) -> Tensor:
        """Take the next samples.

        Args:
            samples: [N] float32.

        Returns:
            [M, F] float32: the frames that are complete, in powers of ten.
        """
        self.samples += len(samples)
        self._buffer = np.concatenate([self._buffer, samples])
        return self._complete()

    def finish(self, padded: int) -> Tensor:
        """End the waveform.

        Args:
            padded: samples that the feature extractor pads it to; at least `samples`.

        Returns:
            [M, F] float32: the frames that are left, up to the last that sees a sample of the waveform.
        """
        zeros = min(padded - self.samples, 2 * self._fourier)
        self._buffer = np.concatenate([self._buffer, np.zeros(zeros, np.float32)])
        if zeros == padded - self.samples:
            # The end of the padded waveform is reflected; the frame that is centred on it is left out.
            extra = padded % self._hop + 1
            self._buffer = np.pad(self._buffer, (0, self._half), mode="reflect")[:-extra]
        return self._complete()

    def _complete(self) -> Tensor:
        """The frames of which all samples are there; the buffer keeps what later frames see."""
        if self._begins and len(self._buffer) > self._half:
            self._buffer = np.pad(self._buffer, (self._half, 0), mode="reflect")
            self._begins = False
        count = (len(self._buffer) - self._fourier) // self._hop + 1
        if self._begins or count <= 0:
            return torch.zeros(len(self._filters), 0)
        wave = torch.from_numpy(self._buffer[: (count - 1) * self._hop + self._fourier])
        spectrum = torch.stft(wave, self._fourier, self._hop, window=self._hann, center=False, return_complex=True)
        power = (spectrum.abs() ** 2).contiguous()
        frames = torch.clamp(self._filters @ power, min=_SMALLEST).log10()
        self._buffer = self._buffer[count * self._hop :].copy()
        self.peak = max(self.peak, float(frames.max()))
        return frames


def limited(frames: Tensor, peak: float) -> Tensor:
    """What an encoder reads: frames [M, F] of `LogMel`, not quieter than the floor of the clip, scaled.

    Args:
        frames: in powers of ten.
        peak: the largest value of the clip.
    """
    return (torch.clamp(frames, min=peak - _RANGE) + 4.0) / 4.0
