"""The pictures that a page shows: which frames, and each as a small .jpg that fits a budget of bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omnisift.media import Media
from omnisift.media.result import TEMPORAL_PATCH

WIDEST = 480
"""Most pixels of a side."""
_STEPS = ((1.0, 80), (1.0, 65), (0.75, 60), (0.6, 50), (0.45, 45), (0.3, 40), (0.2, 35))
"""(part of the size, quality) tried in turn."""


def picture(media: Media, frame: int) -> NDArray[np.uint8]:
    """[H, W, 3]: the first of the images of a frame."""
    assert media.images is not None
    return np.asarray(media.images[TEMPORAL_PATCH * frame])


def jpegs(media: Media, frames: Sequence[int], most_bytes: int) -> list[bytes]:
    """One .jpg for each of ``frames``, all of one size and quality: the best of some that fits ``most_bytes``.

    The smallest is taken if none fits.
    """
    files: list[bytes] = []
    for size, quality in _STEPS:
        files = [_jpeg(picture(media, frame), size, quality) for frame in frames]
        if sum(map(len, files)) <= most_bytes:
            break
    return files


def _jpeg(pixels: NDArray[np.uint8], size: float, quality: int) -> bytes:
    image = Image.fromarray(pixels)
    scale = min(size, size * WIDEST / max(image.size))
    if scale < 1:
        image = image.resize((max(1, round(scale * image.width)), max(1, round(scale * image.height))))
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=quality, optimize=True)
    return file.getvalue()
