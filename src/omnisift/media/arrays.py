"""Frames and samples that are in memory already, brought to the rates and sizes that `read` gives."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame

from omnisift.errors import TooBig, UsageError
from omnisift.media.audio import MAX_SAMPLE, AudioCollector
from omnisift.media.image import ImageCollector
from omnisift.media.sampling import MIN_FPS, TIME_TOLERANCE, Sampling, by_index, by_time
from omnisift.media.units import MAX_CODED_PIXELS

MAX_CHANNELS = 64
"""Channels of a waveform; more are taken for samples."""
MIN_RATE, MAX_RATE = 1_000, 1_000_000
"""Samples per second of a waveform."""

_INTEGERS = {np.dtype(kind): 2.0 ** (8 * np.dtype(kind).itemsize - 1) for kind in (np.uint8, np.int16, np.int32)}
"""Integer formats of samples, and the value that stands for 1."""


def check_frames(frames: Any, fps: Any) -> npt.NDArray[np.uint8]:
    """Check frames and their rate.

    Args:
        frames: [N, H, W, 3] uint8 RGB, in a NumPy array, a tensor or what NumPy makes an array of without copying.
        fps: frames per second.

    Returns:
        The frames as a NumPy array.

    Raises:
        UsageError: the type, shape or rate is wrong.
        TooBig: the images are over 8192 x 4320.
    """
    array = _as_array(frames, "frames", "[N, H, W, 3] of uint8")
    shape = list(array.shape)
    if array.dtype != np.uint8:
        raise UsageError(f"frames must be uint8 from 0 to 255, got {array.dtype}; scale and convert them")
    if array.ndim != 4 or shape[3] != 3:
        hint = "move the channels to the end" if array.ndim == 4 and shape[1] == 3 else "give RGB images"
        raise UsageError(f"frames must have the shape [N, H, W, 3], got {shape}; {hint}")
    if not array.size:
        raise UsageError(f"frames are empty, got the shape {shape}; give at least one frame")
    if shape[1] * shape[2] > MAX_CODED_PIXELS:
        raise TooBig(f"frames of {shape[2]} x {shape[1]} are over the limit of 8192 x 4320; scale them down first")
    if isinstance(fps, bool) or not isinstance(fps, Real) or not MIN_FPS <= float(fps) < math.inf:
        raise UsageError(f"fps must be the frames per second, at least {MIN_FPS}, got {fps!r}")
    return array


def check_waveform(waveform: Any, sample_rate: Any) -> npt.NDArray[Any]:
    """Check a waveform and its rate, without reading the samples.

    Args:
        waveform: [S] or [C, S]; floats in [-1, 1], or uint8, int16 or int32.
        sample_rate: samples per second.

    Returns:
        [C, S] samples.

    Raises:
        UsageError: the type, shape or rate is wrong.
    """
    array = _as_array(waveform, "the waveform", "[S] or [C, S] of floats or int16")
    if array.dtype.kind != "f" and array.dtype not in _INTEGERS:
        raise UsageError(
            f"the waveform must be floats in [-1, 1], uint8, int16 or int32, got {array.dtype}; convert it"
        )
    samples = array[None] if array.ndim == 1 else array
    if not array.size:
        raise UsageError(f"the waveform is empty, got the shape {list(array.shape)}; leave it out, or give samples")
    if samples.ndim != 2 or len(samples) > min(MAX_CHANNELS, samples.shape[1]):
        hint = "; transpose it" if samples.ndim == 2 else ""
        raise UsageError(f"the waveform must have the shape [S] or [C, S], got {list(array.shape)}{hint}")
    is_number = isinstance(sample_rate, Real) and not isinstance(sample_rate, bool)
    if not is_number or not MIN_RATE <= sample_rate <= MAX_RATE or sample_rate != int(sample_rate):
        limits = f"a whole number from {MIN_RATE} to {MAX_RATE}"
        raise UsageError(f"sample_rate must be the waveform's samples per second, {limits}, got {sample_rate!r}")
    return samples


@dataclass(frozen=True)
class SampledFrames:
    """Frames at the rate and size of the model; no frames by default."""

    images: npt.NDArray[np.uint8] | None = None
    """[N, H, W, 3]; None without video."""
    indices: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """[N]: which frame each image is."""
    times: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """[N] seconds: when each of these frames is shown."""
    fps: float = 0.0
    """Images per second."""
    seconds: float = 0.0
    """Length of the video."""
    cuts: tuple[str, ...] = ()
    """Sentences about the limits that reduced it."""


def sample_frames(
    frames: npt.NDArray[np.uint8],
    rate: float,
    *,
    fps: float,
    max_frames: int,
    sampling: Sampling,
    max_seconds: float,
    **size: int,
) -> SampledFrames:
    """Take and scale the frames that `read` would take of a file.

    Args:
        frames: [F, H, W, 3]; frame n is shown from ``n / rate`` on.
        rate: frames per second.
        fps, max_frames, sampling, max_seconds: as in `read`.
        size: ``factor``, ``min_pixels`` and ``max_pixels`` of `smart_size`.

    Raises:
        TooBig: one side is over 200 times the other.
    """
    shown_times = np.arange(len(frames)) / rate
    seconds = min(len(frames) / rate, max_seconds)
    # Sample by time, or by frame number as published results did.
    if sampling == "time":
        grid = by_time(seconds, fps, max_frames)
    else:
        grid = by_index(shown_times[shown_times < max_seconds], rate, fps, max_frames)
    numbers = np.searchsorted(shown_times, grid.moments + TIME_TOLERANCE, side="right") - 1
    # Each frame that is needed is scaled once, and stands until the next one.
    collector = ImageCollector(grid.moments, **size)
    collector.begin(range(len(grid.moments)))
    for number in np.unique(numbers):
        image = np.ascontiguousarray(frames[number])
        collector.add(float(shown_times[number]), VideoFrame.from_ndarray(image, format="rgb24"))
    collector.finish()
    cuts = _cuts(len(frames) / rate, max_seconds)
    if grid.capped:
        cuts += (f"over max_frames={max_frames}; sampled at {grid.fps:.4g} images per second",)
    return SampledFrames(collector.images, numbers, shown_times[numbers], grid.fps, seconds, cuts)


@dataclass(frozen=True)
class ResampledAudio:
    """A waveform at the rate of the model; none by default."""

    waveform: npt.NDArray[np.float32] | None = None
    """[S] float32 within [-1, 1] at 16 kHz; None without audio."""
    cuts: tuple[str, ...] = ()
    """Sentences about the limits that reduced it."""
    warnings: tuple[str, ...] = ()
    """Sentences about what was unusual."""


def resample(samples: npt.NDArray[Any], sample_rate: int, max_seconds: float) -> ResampledAudio:
    """Bring a waveform to one channel at 16 kHz.

    Args:
        samples: [C, S], as `check_waveform` returned it.
        sample_rate: samples per second.
        max_seconds: longest waveform to keep.

    Raises:
        UsageError: samples are NaN, infinite, or far above 1.
    """
    collector = AudioCollector(max_seconds)
    for start in range(0, samples.shape[1], sample_rate):
        mono = _to_mono(samples[:, start : start + sample_rate])
        frame = AudioFrame.from_ndarray(mono[None], format="flt", layout="mono")
        frame.sample_rate = sample_rate
        collector.add(start / sample_rate, frame)
        if collector.full:
            break
    wave = collector.finish({})
    if not len(wave):
        raise UsageError(f"the waveform is too short, got {samples.shape[1]} samples; give at least a millisecond")
    cuts = _cuts(samples.shape[1] / sample_rate, max_seconds)
    return ResampledAudio(wave, cuts, tuple(collector.warnings()))


def _cuts(seconds: float, max_seconds: float) -> tuple[str, ...]:
    return (f"longer than max_seconds={max_seconds:g}; the rest was left out",) if seconds > max_seconds else ()


def _to_mono(samples: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """[S] float32, the mean of the channels; integers become [-1, 1)."""
    full_scale = _INTEGERS.get(samples.dtype)
    if full_scale is not None:
        values = samples.mean(axis=0, dtype=np.float64) / full_scale
        mono = values - 1 if samples.dtype.kind == "u" else values
    else:
        peak = float(np.abs(samples).max())  # NaN if any is
        if not math.isfinite(peak):
            raise UsageError("the waveform has samples that are NaN or infinite; replace them, for example by 0")
        if peak > MAX_SAMPLE:
            raise UsageError(f"a waveform of floats lies within [-1, 1], got {peak:g}; divide it by the full scale")
        mono = samples.mean(axis=0, dtype=np.float64)
    return np.asarray(mono, np.float32)


def _as_array(value: Any, name: str, wanted: str) -> npt.NDArray[Any]:
    """A NumPy array of an array or tensor. Lists are refused: their copy may take much memory and time."""
    if not hasattr(value, "__array__"):
        raise UsageError(
            f"{name} must be an array {wanted}, got {type(value).__name__}; use numpy.stack or numpy.array"
        )
    try:
        if hasattr(value, "detach"):  # a tensor of PyTorch
            value = value.detach().cpu()
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{name} can't be read as an array ({reason}); give a NumPy array {wanted}") from None
    return array
