"""Synthesis of eight kinds of short sound, and of low rumbles in the background."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FADE_SECONDS = 0.012


def synthesise(name: str, seconds: float, sample_rate: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return one sound event: [seconds * sample_rate], about -1..1, faded in and out, with a pitch random within 6 %.

    Raises:
        ValueError: ``name`` is not a kind of sound.
    """
    t = np.arange(int(seconds * sample_rate)) / sample_rate
    pitch = rng.uniform(0.94, 1.06)
    angle = 2 * np.pi * pitch * t
    if name == "hum":
        wave = np.sin(220 * angle) + 0.5 * np.sin(440 * angle)
    elif name == "beep":
        wave = np.sin(800 * angle) + 0.2 * np.sin(1600 * angle)
    elif name == "whistle":
        wave = np.sin(2600 * angle)
    elif name == "rise":
        wave = _glide(450 * pitch, 2400 * pitch, t, seconds)
    elif name == "fall":
        wave = _glide(2400 * pitch, 450 * pitch, t, seconds)
    elif name == "hiss":
        wave = np.diff(rng.standard_normal(len(t) + 1))
        wave = 0.7 * wave / wave.std()
    elif name == "buzz":
        wave = 0.8 * np.sign(np.sin(120 * angle))
    elif name == "trill":
        wave = np.sin(1200 * angle + 12 * np.sin(2 * np.pi * 22 * t))
    else:
        raise ValueError(f"no sound named {name!r}")
    return wave * np.clip(np.minimum(t, seconds - t) / _FADE_SECONDS, 0, 1)


def _glide(low: float, high: float, t: NDArray[np.float64], seconds: float) -> NDArray[np.float64]:
    """A tone whose frequency moves linearly from ``low`` to ``high`` Hz."""
    return np.sin(2 * np.pi * (low * t + (high - low) * t * t / (2 * seconds)))


def add_rumbles(wave: NDArray[np.float32], count: int, sample_rate: int, rng: np.random.Generator) -> None:
    """Add ``count`` long low noises in place, which a selector must learn to ignore."""
    for _ in range(count):
        length = int(rng.uniform(0.4, 1.2) * sample_rate)
        first = int(rng.integers(0, len(wave) - length))
        # A random walk without trend and without slow components, under a Hann window.
        walk = np.cumsum(rng.standard_normal(length))
        walk -= np.linspace(walk[0], walk[-1], length)
        walk -= _moving_mean(walk, 161)
        walk *= np.hanning(length) * rng.uniform(0.03, 0.09) / (walk.std() + 1e-6)
        wave[first : first + length] += walk.astype(np.float32)


def _moving_mean(x: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """The mean over ``width`` (odd) neighbours, zeros beyond the ends; same length."""
    total = np.concatenate([[0.0], np.cumsum(np.pad(x, width // 2))])
    mean: NDArray[np.float64] = (total[width:] - total[:-width]) / width
    return mean
