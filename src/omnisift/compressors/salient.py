"""Saliency alone: how much a token differs from the mean of its frame or of its chunk's audio, without guidance."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from omnisift.chunks import segment_of, segment_sizes
from omnisift.compressors.base import ScoredCompressor
from omnisift.ops.segments import mean_distance
from omnisift.tokens import TokenStream


class SalientCompressor(ScoredCompressor):
    """Keep the tokens least similar to the mean of their frame, or of their chunk's audio (`Scope.FRAME`).

    The spatial score of OmniSIFT (arXiv 2602.04804, eq 2-3), for every frame and for audio as well: a baseline without
    the previous frame and without guidance by video.
    """

    name: ClassVar[str] = "salient"
    idea: ClassVar[str] = "keeps tokens least similar to the mean of their frame or chunk's audio"
    source: ClassVar[str] = "baseline of this project"
    reach = 0

    def score(self, stream: TokenStream) -> Tensor:
        """Return one minus the cosine similarity, [L] float32 in [0, 2]. See `ScoredCompressor.score`."""
        return mean_distance(stream.embeds, segment_of(stream), segment_sizes(stream).numel())
