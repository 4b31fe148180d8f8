"""Encoder attention: top-k of the attention that each token receives in the last layer of its encoder."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.compressors.base import ScoredCompressor
from omnisift.tokens import Modality, TokenStream

NEEDS = frozenset({"video_attention", "audio_attention_window"})
"""The extras that `encoder_attention` reads."""


class AttendedCompressor(ScoredCompressor):
    """Keep the most attended tokens of every frame and of every chunk's audio.

    For video this is VisionZip (CVPR'25, arXiv 2412.04467) without contextual tokens, for audio Segmentwise Top-K
    (arXiv 2511.14293). Deviation: that paper divides the audio into ten equal segments; here a segment is the audio of
    a chunk, so that the counts are the budget's.
    """

    name: ClassVar[str] = "attended"
    idea: ClassVar[str] = "keeps the tokens that the encoders' last layers attend to most"
    source: ClassVar[str] = "arXiv 2511.14293"
    needs = NEEDS

    def score(self, stream: TokenStream) -> Tensor:
        """Return the attention received, [L] float32 >= 0. See `ScoredCompressor.score`."""
        return encoder_attention(stream)


def encoder_attention(stream: TokenStream) -> Tensor:
    """Return the attention that each token receives in the last layer of its own encoder.

    Args:
        stream: a stream with the extras `NEEDS`.

    Returns:
        [L] float32 on the device: video within its frame, audio within its chunk; 0 for all other tokens.
    """
    device = stream.embeds.device
    modality = stream.modality.to(device, non_blocking=True)
    video = stream.extras["video_attention"].to(device, non_blocking=True).float()
    audio = stream.extras["audio_attention_window"].to(device, non_blocking=True).float()
    zero = torch.zeros_like(video)
    return torch.where(modality == Modality.VIDEO, video, torch.where(modality == Modality.AUDIO, audio, zero))
