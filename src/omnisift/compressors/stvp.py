"""STVP alone, and its halves: the paper's ablations of the picture (figure 5)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.budget import Budget, Counts
from omnisift.compressors.base import Compressor
from omnisift.compressors.frames import Frames, pair_cosine, row_cosine
from omnisift.compressors.paired import ScoredVideoCompressor
from omnisift.compressors.vidcom2 import adaptive_counts
from omnisift.errors import CompressorError
from omnisift.tokens import Selection, TokenStream

MODES = ("both", "spatial", "temporal")


class StvpCompressor(ScoredVideoCompressor):
    """The picture's half of OmniSIFT beside any rule for the sound (paper eq 2-5; `omnisift.stvp` is the fast path).

    ``mode="spatial"`` scores both frames of a chunk by their distance to their own mean, ``"temporal"`` both by their
    distance to the same place in the other frame. The paper does not say what its "no spatial" variant compares the
    first frame with; this choice keeps its rule that nothing crosses a chunk. An odd last frame is always spatial, and
    so is a pair of unequal frames.

    ``adaptive=True`` splits each clip's video total over its frames as VidCom2 does, in place of equal shares (the
    paper's ablation of a dynamic budget, table 11, which found it no better); within a frame nothing changes.
    """

    name: ClassVar[str] = "stvp"
    idea: ClassVar[str] = "keeps patches unlike their frame's mean, then unlike the frame before"
    source: ClassVar[str] = "arXiv 2602.04804"

    def __init__(
        self, budget: Budget | float, audio: Compressor | None = None, mode: str = "both", adaptive: bool = False
    ) -> None:
        super().__init__(budget, audio)
        if mode not in MODES:
            raise CompressorError(f"mode of 'stvp' is one of {', '.join(MODES)}, got {mode!r}")
        if not isinstance(adaptive, bool):
            raise CompressorError(f"adaptive of 'stvp' is true or false, got {adaptive!r}: write one of these")
        self.mode = mode
        self.adaptive = adaptive

    @property
    def video_label(self) -> str:
        """``stvp``, ``stvp-spatial`` or ``stvp-temporal``; with ``-adaptive`` where frames get unequal shares."""
        mode = "" if self.mode == "both" else f"-{self.mode}"
        return f"{self.name}{mode}{'-adaptive' if self.adaptive else ''}"

    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """Rank the scores in every frame."""
        return super().select_video(stream, adaptive_counts(stream, counts) if self.adaptive else counts)

    def score(self, stream: TokenStream) -> Tensor:
        """[L] float32: one minus the cosine similarity."""
        frames = Frames.of(stream)
        spatial = 1 - row_cosine(stream.embeds, frames.means(stream.embeds), frames.number)
        if self.mode == "spatial":
            return spatial
        second = frames.cell % 2 == 1
        step = torch.where(second, -1, len(frames) if self.mode == "both" else 1)
        temporal = 1 - pair_cosine(stream.embeds, frames.neighbour(step))
        return torch.where(temporal.isnan(), spatial, temporal)
