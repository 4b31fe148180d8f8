"""EVS: what changed since the frame before, ranked over the whole clip; and DTD, the same signal frame by frame."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.budget import Budget
from omnisift.compressors.base import Compressor
from omnisift.compressors.frames import Frames, pair_cosine
from omnisift.compressors.groups import Scope
from omnisift.compressors.paired import ScoredVideoCompressor
from omnisift.compressors.segment_ops import mean_distance
from omnisift.errors import CompressorError
from omnisift.tokens import TokenStream

_STEP = 3.0
"""More than any distance, which is at most 2 up to rounding: lifts whole frames above others."""


class EvsCompressor(ScoredVideoCompressor):
    """Efficient video sampling: keep the tokens least like the same place in the whole frame before (one minus
    cosine).

    ``mode="clip"`` is EVS (arXiv 2510.14624): all frames of a clip compete for the clip's total (`Scope.CLIP`), the
    first frame always comes first, and a still frame may keep nothing. ``mode="frame"`` is TimeChat-Online's DTD
    (differential token drop, arXiv 2504.17343) in its relative form: the same signal, the same share of every frame
    (`Scope.FRAME`).

    Deviations. EVS needs a total of at least one frame and DTD keeps the first frame whole on top of its share; here
    counts are the budget's, so a first frame that does not fit is cut by the distance of its tokens to its mean. A
    frame that differs in size from the one before has no same places: it is treated as a first frame, behind the
    clip's own first.
    """

    name: ClassVar[str] = "evs"
    idea: ClassVar[str] = "keeps patches that changed since the frame before, over the whole clip"
    source: ClassVar[str] = "arXiv 2510.14624"

    def __init__(self, budget: Budget | float, audio: Compressor | None = None, mode: str = "clip") -> None:
        super().__init__(budget, audio)
        if mode not in ("clip", "frame"):
            raise CompressorError(f"mode of 'evs' is clip or frame, got {mode!r}: choose one of these")
        self.scope = Scope(mode)

    @property
    def video_label(self) -> str:
        """``evs``, or ``evs-frame`` for DTD."""
        return self.name if self.scope is Scope.CLIP else f"{self.name}-{self.scope.value}"

    def score(self, stream: TokenStream) -> Tensor:
        """[L] float32: one minus cosine, in [0, 2]; in mode clip, 3 more in frames that start anew, 6 in the first."""
        frames = Frames.of(stream)
        before = frames.neighbour(-1)
        change = 1 - pair_cosine(stream.embeds, before)
        starts = torch.where((frames.number >= 0) & (before < 0), frames.number, -1)
        fresh = mean_distance(stream.embeds, starts, len(frames))
        if self.scope is Scope.CLIP:  # EVS sets the first frame to a constant, 255: it comes before all else
            lift = torch.where(frames.rank == 0, 2 * _STEP, _STEP)
            fresh[starts >= 0] += lift[starts[starts >= 0]].to(fresh.device)
        return torch.where((starts >= 0).to(fresh.device), fresh, change)
