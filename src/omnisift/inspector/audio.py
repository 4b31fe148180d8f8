"""Draw the audio of a clip: the envelope of the waveform, and the spectrogram as a greyscale image."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_COLUMNS = 2400


def waveform_envelope(waveform: NDArray[np.float32], columns: int = MAX_COLUMNS) -> tuple[list[int], list[int]]:
    """Lowest and highest sample of each column, in percent of the loudest sample.

    Args:
        waveform: [S] samples.
        columns: maximum number of columns.

    Returns:
        Two lists of the same length.
    """
    loudest = max(float(np.abs(waveform).max()), 1e-6)
    edges = np.linspace(0, len(waveform), min(columns, len(waveform)) + 1).astype(np.int64)[:-1]
    low, high = (np.round(100 / loudest * reduce.reduceat(waveform, edges)) for reduce in (np.minimum, np.maximum))
    return low.astype(int).tolist(), high.astype(int).tolist()


def spectrogram_image(mel: NDArray[np.float32], columns: int = MAX_COLUMNS, rows: int = 64) -> NDArray[np.uint8]:
    """Resize a spectrogram to a greyscale image, low frequencies at the bottom.

    Args:
        mel: [bands, T] log-mel energies.
        columns: maximum width.
        rows: maximum height.

    Returns:
        [rows, columns] uint8; the darkest and the brightest percent of the values are clipped.
    """
    # Mean of the bands, then of the time steps, that fall into the same pixel.
    for axis, limit in ((0, rows), (1, columns)):
        size = mel.shape[axis]
        edges = np.linspace(0, size, min(limit, size) + 1).astype(np.int64)
        mel = np.add.reduceat(mel, edges[:-1], axis=axis) / np.expand_dims(np.diff(edges), 1 - axis)
    low, high = np.percentile(mel, (1, 99))
    level = np.clip((mel - low) / max(float(high - low), 1e-6), 0, 1)
    return np.asarray(np.round(255 * level[::-1]), dtype=np.uint8)


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """A .png file of a [rows, columns] greyscale image."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG", optimize=True)
    return file.getvalue()
