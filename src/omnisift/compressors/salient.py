"""Saliency alone: how unlike its own frame or its chunk's sound a token is, with nothing that guides."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from omnisift.chunks import segment_of, segment_sizes
from omnisift.compressors.base import ScoredCompressor
from omnisift.compressors.segment_ops import mean_distance
from omnisift.tokens import TokenStream


class SalientCompressor(ScoredCompressor):
    """Keep the tokens least like the mean of their own frame, or of their chunk's sound (`Scope.FRAME`).

    The spatial rule of OmniSIFT's picture (arXiv 2602.04804, eq 2-3), for every frame and for the sound as well: what
    one gets without a look at the frame before and without guidance from the picture.
    """

    name: ClassVar[str] = "salient"
    idea: ClassVar[str] = "keeps tokens unlike the mean of their frame or chunk's sound"
    source: ClassVar[str] = "baseline of this project"

    def score(self, stream: TokenStream) -> Tensor:
        """[L] float32, in [0, 2]: one minus the cosine similarity; NaN outside chunks."""
        return mean_distance(stream.embeds, segment_of(stream), segment_sizes(stream).numel())
