"""What a stream is made of: images and samples with the time at which they belong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MAX_TIME = 1e8
"""Latest time of a piece: three years."""


@dataclass(frozen=True)
class Piece:
    """An image, samples, or both, of one moment of a stream."""

    time: float
    """Seconds since the stream began: when the image is shown, and when the first sample is heard."""
    image: npt.NDArray[np.uint8] | None = None
    """[H, W, 3] RGB, of any size; None for samples alone."""
    samples: npt.NDArray[np.float32] | None = None
    """[N] of one channel at 16 kHz, within [-1, 1]; None for an image alone."""
