"""What the encoders looked at: plain top-k of the attention that each token received in its own encoder."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.compressors.base import ScoredCompressor
from omnisift.tokens import Modality, TokenStream

NEEDS = frozenset({"video_attention", "audio_attention_window"})


class AttendedCompressor(ScoredCompressor):
    """Keep the tokens of every frame and of every chunk's sound that the encoder's last layer looked at most.

    For the picture this is VisionZip (CVPR'25, arXiv 2412.04467) without its contextual tokens, for sound Segmentwise
    Top-K (arXiv 2511.14293). Deviation: that paper cuts the sound into ten equal segments; here a segment is a chunk's
    sound, so that the counts are the budget's.
    """

    name: ClassVar[str] = "attended"
    idea: ClassVar[str] = "keeps what the encoders' last layers look at most"
    source: ClassVar[str] = "arXiv 2511.14293"
    needs = NEEDS

    def score(self, stream: TokenStream) -> Tensor:
        """[L] float32 >= 0: the attention received."""
        return encoder_attention(stream)


def encoder_attention(stream: TokenStream) -> Tensor:
    """[L] float32 on the device: attention that each token received in the last layer of its own encoder.

    Of the picture within its frame, of the sound within its chunk; 0 for all other tokens.
    """
    device = stream.embeds.device
    modality = stream.modality.to(device)
    picture = stream.extras["video_attention"].to(device).float()
    sound = stream.extras["audio_attention_window"].to(device).float()
    nothing = torch.zeros_like(picture)
    return torch.where(modality == Modality.VIDEO, picture, torch.where(modality == Modality.AUDIO, sound, nothing))
