"""Encode the frames of a page as small .jpg files that fit a byte budget."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omnisift.media import Media
from omnisift.media.result import TEMPORAL_PATCH

MAX_SIDE = 480
"""Maximum pixels of a side."""
_ATTEMPTS = ((1.0, 80), (1.0, 65), (0.75, 60), (0.6, 50), (0.45, 45), (0.3, 40), (0.2, 35))
"""(scale, JPEG quality) to try in this order."""


def frame_image(media: Media, frame: int) -> NDArray[np.uint8]:
    """[H, W, 3]: the first of the images that make up a frame of tokens."""
    assert media.images is not None
    return np.asarray(media.images[TEMPORAL_PATCH * frame])


def encode_jpegs(media: Media, frames: Sequence[int], max_bytes: int) -> list[bytes]:
    """One .jpg per frame, all of one size and quality: the best attempt that fits ``max_bytes``, else the smallest."""
    files: list[bytes] = []
    for scale, quality in _ATTEMPTS:
        files = [_jpeg(frame_image(media, frame), scale, quality) for frame in frames]
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
