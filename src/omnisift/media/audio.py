"""Sound: any track to mono float at 16 kHz, each piece laid where its time stamp says, gaps left silent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler

from omnisift.media.result import SAMPLE_RATE

JITTER = 0.05
"""Seconds: time stamps that differ by less from the running count are no gap (Vorbis strays by 21 ms in good files)."""

LOUDEST_SANE = 16.0
"""Floating-point samples above this are not loud, they are damaged."""

OVERSHOOT = 1.1
"""Lossy codecs overshoot 1 a little; only more than this is worth a warning."""

BLOCK = 0.5
"""Seconds gathered before one call of the resampler: its cost is per call."""

_KINDS = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "s64": np.int64, "flt": np.float32, "dbl": np.float64}


def to_mono(frame: AudioFrame) -> npt.NDArray[np.float32]:
    """[S] float32 at the frame's own rate: the mean of the channels, whole-number formats scaled to [-1, 1).

    The mean can't clip (FFmpeg's own mixing of floats to mono is up to 2.4 times louder), and it is what librosa does.
    """
    channels = frame.layout.nb_channels
    if frame.format.is_planar:
        # Not frame.to_ndarray(): of eight channels PyAV counts nine planes and reads past the end (it crashed there).
        kind, width = _KINDS[frame.format.name.rstrip("p")], frame.samples
        planes = [np.frombuffer(memoryview(frame.planes[c]), kind) for c in range(channels)]
        samples: npt.NDArray[Any] = np.stack(planes)[:, :width]
    else:
        samples = frame.to_ndarray().reshape(-1, channels).T
    mono: npt.NDArray[np.float64] = samples.mean(axis=0, dtype=np.float64)
    if samples.dtype.kind != "f":
        full = float(2 ** (8 * samples.dtype.itemsize - 1))
        mono = (mono - full if samples.dtype.kind == "u" else mono) / full
    with np.errstate(over="ignore"):
        return mono.astype(np.float32)


class AudioCollector:
    """Receives decoded audio frames; lays them on one waveform that starts at 0 of the media clock."""

    def __init__(self, seconds: float) -> None:
        """Keep at most ``seconds`` of sound."""
        self._limit = round(seconds * SAMPLE_RATE)
        self._wave = bytearray()  # grows in place: no second copy of a long waveform
        self._resampler: AudioResampler | None = None
        self._rate = 0
        self._start = 0.0  # time of the current run's first sample
        self._count = 0  # samples of the current run that came in, at the track's rate
        self._cursor = 0  # place of the next sample that comes out
        self._pending: list[npt.NDArray[np.float32]] = []
        self._pending_count = 0
        self._doubt = False
        self.end = 0
        """One past the last sample laid so far, cut or not."""
        self.frames = 0
        self.broken_samples = 0
        self.peak = 0.0
        self.gaps = 0
        self.full = False

    def hear(self, time: float | None, frame: AudioFrame) -> None:
        """Lay one frame that sounds from ``time`` on (seconds, media clock; None: right after the one before)."""
        if not frame.samples or not frame.sample_rate:
            return
        expected = self._start + self._count / self._rate if self._rate else None
        time = (expected or 0.0) if time is None else time
        jitter = 0.002 if self._doubt else JITTER
        if expected is None or frame.sample_rate != self._rate or abs(time - expected) > jitter:
            self._begin(time, frame.sample_rate, gap=expected is not None and time > expected + jitter)
        self._doubt = False
        self._add(self._clean(to_mono(frame)))
        self.frames += 1

    def miss(self) -> None:
        """A packet was lost: the next time stamp counts, however small the gap."""
        self._doubt = True

    def finish(self, ends: Mapping[float, float]) -> npt.NDArray[np.float32]:
        """[S] float32 within [-1, 1]. What lies up to ``ends[e]`` seconds after the moment e is cut off as padding."""
        self._drain()
        wave = np.frombuffer(self._wave, dtype=np.float32)
        heard = self.end / SAMPLE_RATE
        cut = min((round(e * SAMPLE_RATE) for e, padding in ends.items() if e < heard <= e + padding), default=None)
        if cut is not None:
            wave = wave[: max(0, cut)]
        self.peak = float(max(wave.max(initial=0.0), -wave.min(initial=0.0)))  # no copy, unlike abs
        return np.clip(wave, -1.0, 1.0, out=wave)

    def complaints(self) -> list[str]:
        """Plain sentences about the sound, once it is finished."""
        said = []
        if self.gaps:
            said.append(f"{self.gaps} gap(s) in the sound filled with silence")
        if self.broken_samples:
            said.append(f"{self.broken_samples} sound samples that are no sane numbers set to 0")
        if self.peak > OVERSHOOT:
            said.append(f"sound reaches {self.peak:.1f} and was clipped to 1")
        if not self._wave:
            said.append("nothing of the sound can be decoded")
        return said

    def _begin(self, time: float, rate: int, gap: bool) -> None:
        self._drain()
        self.gaps += gap
        self._resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
        self._rate, self._start, self._count = rate, time, 0
        self._cursor = round(time * SAMPLE_RATE)

    def _clean(self, mono: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Before resampling, or one NaN would spread over its whole neighbourhood."""
        bad = ~(np.abs(mono) <= LOUDEST_SANE)
        count = int(np.count_nonzero(bad))
        if count:
            self.broken_samples += count
            mono = np.where(bad, np.float32(0), mono)
        return mono

    def _add(self, mono: npt.NDArray[np.float32]) -> None:
        self._pending.append(mono)
        self._pending_count += len(mono)
        self._count += len(mono)
        if self._pending_count >= BLOCK * self._rate:
            self._push()

    def _push(self) -> None:
        if not self._pending or self._resampler is None:
            return
        block = np.concatenate(self._pending)[None, :]
        self._pending, self._pending_count = [], 0
        frame = AudioFrame.from_ndarray(block, format="flt", layout="mono")
        frame.sample_rate = self._rate
        for piece in self._resampler.resample(frame):
            self._lay(piece.to_ndarray()[0])

    def _drain(self) -> None:
        """End the current run: push what waits, and get what the resampler's filter still holds."""
        self._push()
        if self._resampler is not None and self._count:
            for piece in self._resampler.resample(None):
                self._lay(piece.to_ndarray()[0])
        self._resampler = None

    def _lay(self, samples: npt.NDArray[np.float32]) -> None:
        """At the cursor; samples before 0, over an earlier piece, or beyond the limit fall away."""
        begin = self._cursor
        self._cursor += len(samples)
        self.end = max(self.end, self._cursor)
        self.full = self.full or self._cursor > self._limit
        done = len(self._wave) // 4
        samples = samples[max(0, done - begin) : max(0, self._limit - begin)]
        begin = max(begin, done)
        if len(samples):
            self._wave += bytes(4 * (begin - done))
            self._wave += samples.astype(np.float32, copy=False).tobytes()
