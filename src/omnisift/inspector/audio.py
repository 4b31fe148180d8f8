"""The sound as a picture: the outline of the waveform, and the spectrogram as greys."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDEST = 2400
"""Most columns of either."""


def outline(waveform: NDArray[np.float32], columns: int = WIDEST) -> tuple[list[int], list[int]]:
    """Lowest and highest sample of each column, in hundredths of the loudest one."""
    loudest = max(float(np.abs(waveform).max()), 1e-6)
    edges = np.linspace(0, len(waveform), min(columns, len(waveform)) + 1).astype(np.int64)[:-1]
    low, high = (np.round(100 / loudest * reduce.reduceat(waveform, edges)) for reduce in (np.minimum, np.maximum))
    return low.astype(int).tolist(), high.astype(int).tolist()


def greys(mel: NDArray[np.float32], columns: int = WIDEST, rows: int = 64) -> NDArray[np.uint8]:
    """[rows, columns] of [bands, T]: mean of the bands and of the time that fall together; low tones at the bottom.

    The darkest and the brightest hundredth of the values are cut off.
    """
    for axis, most in ((0, rows), (1, columns)):
        size = mel.shape[axis]
        edges = np.linspace(0, size, min(most, size) + 1).astype(np.int64)
        mel = np.add.reduceat(mel, edges[:-1], axis=axis) / np.expand_dims(np.diff(edges), 1 - axis)
    low, high = np.percentile(mel, (1, 99))
    level = np.clip((mel - low) / max(float(high - low), 1e-6), 0, 1)
    return np.asarray(np.round(255 * level[::-1]), dtype=np.uint8)


def png(grey: NDArray[np.uint8]) -> bytes:
    """A .png of [rows, columns] greys."""
    file = io.BytesIO()
    Image.fromarray(grey).save(file, format="PNG", optimize=True)
    return file.getvalue()
