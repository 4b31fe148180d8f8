"""Spoken words by formant synthesis, and the continuous background sounds of the wide family.

A voice is a sum of harmonics whose levels follow three resonances (formants), which glide from one sound of the word to
the next; fricatives and bursts are noise in a band.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from omnisift.world.words import WORDS

Wave = NDArray[np.float64]

_FORMANTS: dict[str, tuple[float, float, float]] = {
    "a": (750, 1250, 2500), "e": (480, 1950, 2600), "i": (290, 2250, 2900), "o": (450, 850, 2400),
    "u": (310, 780, 2300), "n": (260, 1500, 2400), "ng": (260, 2000, 2600), "l": (360, 1100, 2700),
    "r": (420, 1150, 1600),
}  # fmt: skip
"""Voiced sound -> its first three resonances in Hz, for a voice of middle size."""
_NOISE: dict[str, tuple[float, float, float]] = {
    "s": (4200, 7600, 1.0), "f": (1500, 7000, 0.35), "z": (4200, 7600, 0.6),
    "p": (500, 1800, 0.7), "t": (3000, 6500, 0.9), "k": (1500, 3200, 0.8), "b": (300, 900, 0.5),
}  # fmt: skip
"""Sound with noise -> its band in Hz and its level."""
_STOPS = frozenset("ptkb")
_SOUNDS: dict[str, tuple[str, ...]] = {
    "open": ("o", "p", "e", "n"), "exit": ("e", "k", "s", "i", "t"), "taxi": ("t", "a", "k", "s", "i"),
    "cafe": ("k", "a", "f", "e"), "sale": ("s", "e", "l"), "park": ("p", "a", "r", "k"),
    "bank": ("b", "a", "ng", "k"), "news": ("n", "u", "z"),
}  # fmt: skip
"""Word -> its sounds."""
_LENGTHS = {"l": 0.8, "r": 0.7, "n": 0.7, "ng": 0.7} | dict.fromkeys("aeiou", 1.6) | dict.fromkeys("sfz", 1.1)
"""Sound -> relative length; 0.6 for a stop."""
_TILT = 0.75
"""Fall of the voice's harmonics with their number, as an exponent."""
_WIDTH = 110.0
"""Half width of a resonance in Hz."""
_HIGHEST = 4500.0


def speak(word: str, seconds: float, sample_rate: int, rng: np.random.Generator) -> Wave:
    """Return one spoken word: [seconds * sample_rate], about -1..1, by a voice of random pitch and size.

    Raises:
        ValueError: ``word`` is not in the vocabulary.
    """
    if word not in WORDS:
        raise ValueError(f"no word {word!r}")
    sounds = _SOUNDS[word]
    total = int(seconds * sample_rate)
    lengths = np.array([_LENGTHS.get(sound, 0.6) for sound in sounds]) * rng.uniform(0.85, 1.15, len(sounds))
    edges = np.rint(np.concatenate([[0], np.cumsum(lengths) / lengths.sum()]) * total).astype(int)
    pitch, size = rng.uniform(95, 220), rng.uniform(0.88, 1.15)
    wave = _voice(sounds, edges, pitch, size, sample_rate)
    for sound, first, last in zip(sounds, edges, edges[1:], strict=False):
        if sound in _NOISE:
            _add_noise(wave[first:last], sound, sample_rate, rng)
    fade = np.minimum(np.arange(total), np.arange(total)[::-1]) / (0.01 * sample_rate)
    wave *= np.clip(fade, 0, 1)
    return np.asarray(wave / (np.abs(wave).max() + 1e-9))


def _voice(sounds: Sequence[str], edges: NDArray[np.int64], pitch: float, size: float, sample_rate: int) -> Wave:
    """The voiced part of a word: [total]."""
    total = int(edges[-1])
    time = np.arange(total) / sample_rate
    # Resonances and loudness at the middle of each sound; a stop takes the resonances of its neighbours.
    voiced = [i for i, sound in enumerate(sounds) if sound in _FORMANTS]
    middles = (edges[:-1] + edges[1:]) / 2
    loud = np.repeat([1.0 if s in _FORMANTS else 0.25 if s in "zb" else 0.0 for s in sounds], np.diff(edges))
    loud = np.convolve(loud, np.hanning(321) / np.hanning(321).sum(), "same")
    tone = pitch * (1.08 - 0.16 * time / time[-1])
    angle = 2 * np.pi * np.cumsum(tone) / sample_rate
    wave = np.zeros(total)
    tracks = [
        size * np.interp(np.arange(total), middles[voiced], [_FORMANTS[sounds[i]][n] for i in voiced]) for n in range(3)
    ]
    for number in range(1, int(_HIGHEST / pitch) + 1):
        frequency = number * tone
        level = sum(
            weight / (1 + ((frequency - track) / _WIDTH) ** 2)
            for weight, track in zip((1.0, 0.7, 0.4), tracks, strict=True)
        )
        wave += level / number**_TILT * np.sin(number * angle)
    return np.asarray(0.6 * wave * loud)


def _add_noise(part: Wave, sound: str, sample_rate: int, rng: np.random.Generator) -> None:
    """Add the noise of a fricative, or the burst of a stop after its closure, in place."""
    low, high, level = _NOISE[sound]
    noise = _band(rng.standard_normal(len(part)), low, high, sample_rate)
    ramp = np.linspace(0, 1, len(part))
    shape = np.where(ramp > 0.55, np.exp(-6 * (ramp - 0.55)), 0.0) if sound in _STOPS else np.sin(np.pi * ramp) ** 0.5
    part += level * 0.5 * shape * noise / (noise.std() + 1e-9)


def _band(wave: Wave, low: float, high: float, sample_rate: int) -> Wave:
    spectrum = np.fft.rfft(wave)
    frequency = np.fft.rfftfreq(len(wave), 1 / sample_rate)
    return np.asarray(np.fft.irfft(spectrum * ((frequency >= low) & (frequency <= high)), len(wave)))


def ambience(samples: int, sample_rate: int, rng: np.random.Generator) -> Wave:
    """Return a continuous background sound of RMS 1: [samples]; wind, an engine, or a crowd of voices."""
    kind = int(rng.integers(3))
    wave = _coloured(samples, rng)
    time = np.arange(samples) / sample_rate
    if kind == 0:  # wind: noise that swells
        wave *= 1 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.15, 0.4) * time + rng.uniform(0, 6))
    elif kind == 1:  # an engine: harmonics of a low tone, with noise
        base = rng.uniform(45, 80)
        for number in range(1, 7):
            wave += 1.2 / number * np.sin(2 * np.pi * number * base * time + rng.uniform(0, 6))
    else:  # a crowd: vowels of several voices
        wave = 0.3 * wave + _crowd(samples, sample_rate, rng)
    return np.asarray(wave / wave.std())


def _coloured(samples: int, rng: np.random.Generator) -> Wave:
    """Noise whose power falls with frequency, of RMS 1."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    wave = np.fft.irfft(spectrum / np.sqrt(np.arange(len(spectrum)) + samples / 400), samples)
    return np.asarray(wave / wave.std())


def _crowd(samples: int, sample_rate: int, rng: np.random.Generator) -> Wave:
    """Babble of RMS 1: loops of vowels in random order, shifted against each other."""
    wave = np.zeros(samples)
    for _ in range(4):
        vowels = [("a", "e", "o", "u")[int(i)] for i in rng.integers(0, 4, 6)]
        edges = np.rint(np.linspace(0, 1.3 * sample_rate, 7)).astype(np.int64)
        loop = _voice(vowels, edges, rng.uniform(95, 220), rng.uniform(0.88, 1.15), sample_rate)
        loop *= 1 + 0.8 * np.sin(2 * np.pi * 4 * np.arange(len(loop)) / sample_rate)
        wave += np.roll(np.resize(loop, samples), int(rng.integers(samples)))
    return np.asarray(wave / wave.std())
