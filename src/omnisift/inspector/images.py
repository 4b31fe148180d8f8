"""Images of a page: the frames as .jpg files that fit a byte budget, the spectrogram as .png, and the waveform."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omnisift.media import Media
from omnisift.media.units import TEMPORAL_PATCH

MAX_COLUMNS = 2400
"""Maximum columns of a waveform or spectrogram."""
MAX_SIDE = 480
"""Maximum pixels of a side."""
_ATTEMPTS = ((1.0, 80), (1.0, 65), (0.75, 60), (0.6, 50), (0.45, 45), (0.3, 40), (0.2, 35))
"""(scale, JPEG quality) to try in this order."""


def frame_image(media: Media, frame: int, images_per_frame: int = TEMPORAL_PATCH) -> NDArray[np.uint8]:
    """[H, W, 3]: the first of the images that make up a frame of tokens."""
    assert media.images is not None
    return np.asarray(media.images[images_per_frame * frame])


def encode_jpegs(
    media: Media, frames: Sequence[int], max_bytes: int, images_per_frame: int = TEMPORAL_PATCH
) -> list[bytes]:
    """One .jpg per frame, all of one size and quality: the best attempt that fits ``max_bytes``, else the smallest."""
    files: list[bytes] = []
    for scale, quality in _ATTEMPTS:
        files = [_jpeg(frame_image(media, frame, images_per_frame), scale, quality) for frame in frames]
        if sum(map(len, files)) <= max_bytes:
            break
    return files


def _jpeg(pixels: NDArray[np.uint8], scale: float, quality: int) -> bytes:
    image = Image.fromarray(pixels)
    scale = min(scale, scale * MAX_SIDE / max(image.size))
    if scale < 1:
        image = image.resize((max(1, round(scale * image.width)), max(1, round(scale * image.height))))
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=quality, optimize=True)
    return file.getvalue()


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
