"""Audio: any track as mono float at 16 kHz, each piece at its time stamp, gaps filled with silence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler

from omnisift.media.units import SAMPLE_RATE

JITTER = 0.05
"""Seconds: a time stamp that differs by less from the sample count is no gap (Vorbis strays by 21 ms in good files)."""

EXACT_JITTER = 0.002
"""The same after a lost packet or a jump of the clock, where small gaps are real."""

MAX_SAMPLE = 16.0
"""Floating-point samples above this are damaged, not loud."""

OVERSHOOT = 1.1
"""Lossy codecs exceed 1 a little; only a peak above this is worth a warning."""

BLOCK = 0.5
"""Seconds collected before one call of the resampler, whose cost is per call."""

_DTYPES = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "s64": np.int64, "flt": np.float32, "dbl": np.float64}


def to_mono(frame: AudioFrame) -> npt.NDArray[np.float32]:
    """Average the channels of a frame.

    The mean can't clip (FFmpeg's own mixing of floats to mono is up to 2.4 times louder), and librosa does the same.

    Args:
        frame: decoded audio of any format and layout.

    Returns:
        [S] float32 at the frame's own rate; integer formats are scaled to [-1, 1).
    """
    channels = frame.layout.nb_channels
    if frame.format.is_planar:
        # Not frame.to_ndarray(): of eight channels PyAV counts nine planes and reads past the end (it crashed there).
        dtype, width = _DTYPES[frame.format.name.rstrip("p")], frame.samples
        planes = [np.frombuffer(memoryview(frame.planes[c]), dtype) for c in range(channels)]
        samples: npt.NDArray[Any] = np.stack(planes)[:, :width]
    else:
        samples = frame.to_ndarray().reshape(-1, channels).T
    mono: npt.NDArray[np.float64] = samples.mean(axis=0, dtype=np.float64)
    # Integers to [-1, 1); unsigned ones are centred first.
    if samples.dtype.kind != "f":
        full_scale = float(2 ** (8 * samples.dtype.itemsize - 1))
        mono = (mono - full_scale if samples.dtype.kind == "u" else mono) / full_scale
    with np.errstate(over="ignore"):
        return mono.astype(np.float32)


class AudioCollector:
    """Collects decoded audio frames into one waveform that starts at 0 of the media clock."""

    def __init__(self, seconds: float, block: float = BLOCK) -> None:
        """Start an empty waveform.

        Args:
            seconds: longest waveform to keep.
            block: seconds of samples that are resampled at once; the result does not depend on it.
        """
        self._block = block
        self._limit = round(seconds * SAMPLE_RATE)
        self._wave = bytearray()  # grows in place: no second copy of a long waveform
        self._written = 0
        self._resampler: AudioResampler | None = None
        self._rate = 0
        self._start = 0.0  # time of the first sample of the current run
        self._count = 0  # input samples of the current run, at the track's rate
        self._cursor = 0  # index of the next output sample
        self._pending: list[npt.NDArray[np.float32]] = []
        self._pending_count = 0
        self._exact = False
        self.end = 0
        """One past the last sample so far, including those beyond the limit."""
        self.frames = 0
        self.broken_samples = 0
        self.peak = 0.0
        self.gaps = 0
        self.full = False

    def add(self, time: float | None, frame: AudioFrame) -> None:
        """Append one frame.

        Args:
            time: when it starts, in seconds on the media clock; None: right after the previous one.
            frame: decoded audio.
        """
        if not frame.samples or not frame.sample_rate:
            return
        # A run is a stretch without gaps at one rate: it is resampled as one stream.
        expected = self._start + self._count / self._rate if self._rate else None
        time = (expected or 0.0) if time is None else time
        jitter = EXACT_JITTER if self._exact else JITTER
        if expected is None or frame.sample_rate != self._rate or abs(time - expected) > jitter:
            self._begin_run(time, frame.sample_rate, gap=expected is not None and time > expected + jitter)
        self._exact = False
        self._append(self._clean(to_mono(frame)))
        self.frames += 1

    def follow_next_time(self) -> None:
        """Follow the next time stamp however small the gap, as after a lost packet."""
        self._exact = True

    def finish(self, ends: Mapping[float, float]) -> npt.NDArray[np.float32]:
        """Return the waveform without the encoder's padding.

        Args:
            ends: {time: seconds}. Audio that ends up to so many seconds after that time is cut there as padding.

        Returns:
            [S] float32 within [-1, 1].
        """
        self.drain()
        wave = np.frombuffer(self._wave, dtype=np.float32)[: self._length(ends)]
        self._measure_peak(wave)
        return np.clip(wave, -1.0, 1.0, out=wave)

    def _length(self, ends: Mapping[float, float]) -> int:
        """Samples of the waveform without padding; the argument is that of `finish`."""
        # Padding: the audio outlasts one of the stated ends by a little.
        end = self.end / SAMPLE_RATE
        cuts = (round(e * SAMPLE_RATE) for e, padding in ends.items() if e < end <= e + padding)
        return max(0, min((self._written, *cuts)))

    def _measure_peak(self, samples: npt.NDArray[np.float32]) -> None:
        peak = float(max(samples.max(initial=0.0), -samples.min(initial=0.0)))  # no copy, unlike abs
        self.peak = max(self.peak, peak)

    def warnings(self) -> list[str]:
        """Sentences about what was unusual; call it after `finish`."""
        warnings = []
        if self.gaps:
            warnings.append(f"{self.gaps} gap(s) in the audio filled with silence")
        if self.broken_samples:
            warnings.append(f"{self.broken_samples} audio samples that are not valid numbers set to 0")
        if self.peak > OVERSHOOT:
            warnings.append(f"audio reaches {self.peak:.1f} and was clipped to 1")
        if not self._written:
            warnings.append("no audio can be decoded")
        return warnings

    def _begin_run(self, time: float, rate: int, gap: bool) -> None:
        self.drain()
        self.gaps += gap
        self._resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        self._rate, self._start, self._count = rate, time, 0
        self._cursor = round(time * SAMPLE_RATE)

    def _clean(self, mono: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Zero invalid samples before resampling, which would spread one NaN over its neighbours."""
        bad = ~(np.abs(mono) <= MAX_SAMPLE)
        count = int(np.count_nonzero(bad))
        if count:
            self.broken_samples += count
            mono = np.where(bad, np.float32(0), mono)
        return mono

    def _append(self, mono: npt.NDArray[np.float32]) -> None:
        self._pending.append(mono)
        self._pending_count += len(mono)
        self._count += len(mono)
        if self._pending_count >= self._block * self._rate:
            self._resample_pending()

    def _resample_pending(self) -> None:
        if not self._pending or self._resampler is None:
            return
        block = np.concatenate(self._pending)[None, :]
        self._pending, self._pending_count = [], 0
        frame = AudioFrame.from_ndarray(block, format="flt", layout="mono")
        frame.sample_rate = self._rate
        for piece in self._resampler.resample(frame):
            self._write(piece.to_ndarray()[0])

    def drain(self) -> None:
        """End the current run: resample pending samples, and flush the resampler's filter."""
        self._resample_pending()
        if self._resampler is not None and self._count:
            for piece in self._resampler.resample(None):
                self._write(piece.to_ndarray()[0])
        self._resampler = None

    def _write(self, samples: npt.NDArray[np.float32]) -> None:
        """Write at the cursor, without samples before 0, over an earlier piece, or beyond the limit."""
        begin = self._cursor
        self._cursor += len(samples)
        self.end = max(self.end, self._cursor)
        self.full = self.full or self._cursor > self._limit
        # Keep the part after what is written and before the limit.
        samples = samples[max(0, self._written - begin) : max(0, self._limit - begin)]
        begin = max(begin, self._written)
        if len(samples):
            self._store(begin - self._written, samples.astype(np.float32, copy=False))
            self._written = begin + len(samples)

    def _store(self, silence: int, samples: npt.NDArray[np.float32]) -> None:
        """Append so many zeros, and then the samples."""
        self._wave += bytes(4 * silence)
        self._wave += samples.tobytes()
