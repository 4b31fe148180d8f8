"""STVP without the audio selector, and its halves: the paper's ablations of video pruning (figure 5)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.budget import Budget, Counts
from omnisift.compressors.base import Compressor
from omnisift.compressors.paired import ScoredVideoCompressor
from omnisift.compressors.vidcom2 import adaptive_counts
from omnisift.ops.frames import Frames, chunk_distance
from omnisift.ops.segments import mean_distance
from omnisift.ops.similarity import pair_cosine
from omnisift.tokens import Selection, TokenStream

MODES = ("both", "spatial", "temporal")
"""Which of the two scores is used."""


class StvpCompressor(ScoredVideoCompressor):
    """The video pruning of OmniSIFT with any method for audio (paper eq 2-5; `omnisift.stvp` is the fast path).

    The paper does not say what its "no spatial" variant compares the first frame with. Here ``mode="temporal"``
    compares it with the second, so that nothing crosses a chunk. An odd last frame is always spatial, and so is a pair
    of unequal frames.

    Args:
        budget: the fraction of tokens kept; a number is the overall ratio.
        audio: the method for audio tokens; None means `UniformCompressor` with pooling.
        mode: ``both`` is the paper's. ``spatial`` scores both frames of a chunk by their distance to their own mean,
            ``temporal`` both by their distance to the same place in the other frame.
        adaptive: whether each clip's video total is divided over its frames as in VidCom2 (the paper's ablation of a
            dynamic budget, table 11, which found it no better), instead of equally.
    """

    name: ClassVar[str] = "stvp"
    idea: ClassVar[str] = "keeps patches unlike their frame's mean, or unlike the previous frame"
    source: ClassVar[str] = "arXiv 2602.04804"

    def __init__(
        self, budget: Budget | float, audio: Compressor | None = None, mode: str = "both", adaptive: bool = False
    ) -> None:
        super().__init__(budget, audio)
        self.check_choice("mode", mode, MODES)
        self.check_choice("adaptive", adaptive, (True, False))
        self.mode = mode
        self.adaptive = adaptive

    @property
    def video_reach(self) -> int | None:
        """0: nothing crosses a chunk, except adaptive counts."""
        return None if self.adaptive else 0

    @property
    def video_label(self) -> str:
        """``stvp``, ``stvp-spatial`` or ``stvp-temporal``; with ``-adaptive`` where frames get unequal shares."""
        mode = "" if self.mode == "both" else f"-{self.mode}"
        return f"{self.name}{mode}{'-adaptive' if self.adaptive else ''}"

    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """Keep the highest scores of every frame. See `Compressor.select_video`."""
        return super().select_video(stream, adaptive_counts(stream, counts) if self.adaptive else counts)

    def score(self, stream: TokenStream) -> Tensor:
        """Return one minus the cosine similarity, [L] float32. See `ScoredVideoCompressor.score`."""
        if self.mode == "both":
            return chunk_distance(stream)
        # eq 2-3: distance to the mean of the frame.
        frames = Frames.of(stream)
        spatial = mean_distance(stream.embeds, frames.number, len(frames))
        if self.mode == "spatial":
            return spatial
        # eq 4, of both frames: distance to the other one.
        other = frames.neighbour(torch.where(frames.cell % 2 == 1, -1, 1))
        temporal = 1 - pair_cosine(stream.embeds, other)
        return torch.where(temporal.isnan(), spatial, temporal)
