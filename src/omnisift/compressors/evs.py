"""EVS: what changed since the previous frame, ranked over the clip; and DTD, the same signal ranked per frame."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.budget import Budget
from omnisift.compressors.base import Compressor
from omnisift.compressors.paired import ScoredVideoCompressor
from omnisift.ops.frames import Frames
from omnisift.ops.groups import Scope
from omnisift.ops.segments import mean_distance
from omnisift.ops.similarity import pair_cosine
from omnisift.tokens import TokenStream

_BONUS = 3.0
"""More than any distance (at most 2, up to rounding): ranks first frames above all others."""


class EvsCompressor(ScoredVideoCompressor):
    """Efficient video sampling: keep the tokens least similar to the same place in the unpruned previous frame.

    ``mode="clip"`` is EVS (arXiv 2510.14624): all frames of a clip compete for the clip's total (`Scope.CLIP`), the
    first frame always comes first, and a static frame may keep nothing. ``mode="frame"`` is TimeChat-Online's DTD
    (differential token drop, arXiv 2504.17343) in its relative form: the same signal, the same fraction of every frame
    (`Scope.FRAME`).

    Deviations: EVS needs a total of at least one frame, and DTD keeps the first frame in full on top of its fraction.
    Here counts are the budget's, so a first frame that does not fit is pruned by the distance of its tokens to its
    mean. A frame whose size differs from the previous one has no corresponding places: it is treated as a first frame,
    ranked after the clip's own first.

    Args:
        budget: the fraction of tokens kept; a number is the overall ratio.
        audio: the method for audio tokens; None means `UniformCompressor` with pooling.
        mode: ``clip`` or ``frame``.
    """

    name: ClassVar[str] = "evs"
    idea: ClassVar[str] = "keeps patches that changed since the previous frame, ranked over the clip"
    source: ClassVar[str] = "arXiv 2510.14624"

    def __init__(self, budget: Budget | float, audio: Compressor | None = None, mode: str = "clip") -> None:
        super().__init__(budget, audio)
        self.check_choice("mode", mode, ("clip", "frame"))
        self.scope = Scope(mode)

    @property
    def video_reach(self) -> int | None:
        """One frame in mode frame; the clip in mode clip."""
        return None if self.scope is Scope.CLIP else 1

    @property
    def video_label(self) -> str:
        """``evs``, or ``evs-frame`` for DTD."""
        return self.name if self.scope is Scope.CLIP else f"{self.name}-{self.scope.value}"

    def score(self, stream: TokenStream) -> Tensor:
        """Return one minus cosine, [L] float32 in [0, 2]; in mode clip, 3 more in first frames, 6 in the clip's first.

        See `ScoredVideoCompressor.score`.
        """
        frames = Frames.of(stream)
        previous = frames.neighbour(-1)
        change = 1 - pair_cosine(stream.embeds, previous)
        # Frames without a previous one of their size: distance to their own mean.
        first_frame = torch.where((frames.number >= 0) & (previous < 0), frames.number, -1)
        is_first = first_frame >= 0
        distance = mean_distance(stream.embeds, first_frame, len(frames))
        # EVS sets the scores of the first frame to a constant, 255, so that it comes before all others.
        if self.scope is Scope.CLIP:
            bonus = torch.where(frames.rank == 0, 2 * _BONUS, _BONUS)
            distance[is_first] += bonus[first_frame[is_first]].to(distance.device, non_blocking=True)
        return torch.where(is_first.to(distance.device, non_blocking=True), distance, change)
