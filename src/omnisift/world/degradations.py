"""Degradations of a clip: what a poor camera, network or microphone does to a file whose contents are known."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

DEGRADATIONS: Mapping[str, str] = MappingProxyType(
    {
        "h264": "video at a low bit rate (CRF 42; only in files)",
        "blur": "pictures out of focus (Gaussian of 3 pixels)",
        "occlusion": "dark bars over a third of the picture",
        "dark": "an eighth of the light, with the noise of the sensor",
        "drops": "half of the frames lost, in runs of 0.5 to 1.5 s",
        "slow": "one frame per second",
        "noise": "white noise as loud as the sound",
        "narrow": "sound sampled at 8 kHz",
        "clipped": "sound cut off at a sixth of its peak",
        "late": "sound 200 ms late",
        "gaps": "half of the sound missing, in gaps of 0.5 to 1.5 s",
        "mute": "no sound: digital silence",
    }
)
"""Name -> what it does."""
LOW_RATE_CRF = 42
LATE_SECONDS = 0.2
_BLUR, _LIGHT, _SENSOR_NOISE, _CLIP = 3.0, 0.125, 5.0, 1 / 6
_BAR, _PERIOD = 22, 66
"""Pixels of a bar, and from one bar to the next."""
_RUN_SECONDS = (0.5, 1.5)


def shown_frames(
    name: str, frames: NDArray[np.int64], total: int, rate: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return which frame of the clean clip is seen in place of each frame.

    Args:
        name: The degradation.
        frames: [F] int64: numbers of frames.
        total: Frames of the clip.
        rate: Frames per second.
        rng: Random numbers of the degradation.
    """
    if name == "slow":
        return np.asarray(frames // rate * rate)
    if name == "drops":
        kept = ~_runs(total, rate, rng)
        kept[0] = True
        return np.asarray(np.maximum.accumulate(np.where(kept, np.arange(total), 0))[frames])
    return frames


def degrade_images(
    name: str, images: NDArray[np.uint8], frames: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return images [F, H, W, 3] with the numbers ``frames`` after a degradation of the picture; others leave them."""
    if name == "blur":
        blur = ImageFilter.GaussianBlur(_BLUR)
        return np.stack([np.asarray(Image.fromarray(image).filter(blur)) for image in images])
    if name == "occlusion":
        images = images.copy()
        images[:, :, (np.arange(images.shape[2]) + rng.integers(_PERIOD)) % _PERIOD < _BAR] = 25
        return images
    if name == "dark":
        noise = _SENSOR_NOISE * rng.standard_normal(images.shape[1:], dtype=np.float32)
        return np.stack(
            [
                np.clip(_LIGHT * image + np.roll(noise, 37 * int(frame), axis=0), 0, 255).astype(np.uint8)
                for image, frame in zip(images, frames, strict=True)
            ]
        )
    return images


def degrade_sound(name: str, wave: NDArray[np.float32], rate: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a waveform [S] after a degradation of the sound; others leave it as it is."""
    if name == "noise":
        wave = wave + wave.std() * rng.standard_normal(len(wave), dtype=np.float32)
    elif name == "narrow":
        spectrum = np.fft.rfft(wave)
        spectrum[np.fft.rfftfreq(len(wave), 1 / rate) > 4000] = 0
        wave = np.fft.irfft(spectrum, len(wave)).astype(np.float32)
    elif name == "clipped":
        peak = _CLIP * float(np.abs(wave).max())
        wave = np.clip(wave, -peak, peak)
    elif name == "late":
        delay = round(LATE_SECONDS * rate)
        wave = np.concatenate([np.zeros(delay, np.float32), wave[:-delay]])
    elif name == "gaps":
        wave = np.where(_runs(len(wave), rate, rng), np.float32(0), wave)
    elif name == "mute":
        wave = np.zeros_like(wave)
    return np.clip(wave, -1, 1) if name else wave


def _runs(total: int, rate: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """[total] bool: runs of true and false in turn, each of 0.5 to 1.5 s."""
    lengths = rng.uniform(*_RUN_SECONDS, 2 + int(2 * total / rate))
    edges = np.cumsum(lengths * rate).astype(int)
    number = np.searchsorted(edges, np.arange(total), side="right")
    return np.asarray((number + rng.integers(2)) % 2 == 1)
