"""The encoders of either family over a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from omnisift.lab.training import encoders, encoders_qwen3


def frame_tokens(visual: Any, images: NDArray[np.uint8]) -> Tensor:
    """Tokens of square images.

    Args:
        visual: a vision encoder.
        images: [B, N, H, W, 3] uint8 at the size that the host reads.

    Returns:
        [B * N/2, tokens, D]; for Qwen3-Omni [B * N/2, tokens, (1 + levels) * D], with the features of each deepstack
        level after those of the token.
    """
    encode = encoders_qwen3.encode_frames if hasattr(visual, "merger_list") else encoders.encode_frames
    return encode(visual, encoders.patchify(images, visual.config.patch_size))


def sound_tokens(encoder: Any, mel: Tensor) -> Tensor:
    """Tokens [B, 25 n, D], or 13 a second for Qwen3-Omni, of spectrograms [B, 128, 100 n]."""
    encode = encoders_qwen3.encode_audio if hasattr(encoder, "conv2d1") else encoders.encode_audio
    return encode(encoder, mel)
