"""One pool for picture and sound of a chunk: a control for methods that let the modalities compete."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.budget import Counts
from omnisift.chunks import ChunkShapes
from omnisift.compressors.base import ScoredCompressor
from omnisift.compressors.distinctiveness import FLAT, part_means, part_of, unlikeness
from omnisift.compressors.groups import Scope, group
from omnisift.tokens import Selection, TokenStream


class JointCompressor(ScoredCompressor):
    """Keep the tokens of a chunk, picture or sound, that stand out most within their own modality.

    The score is the distance to the mean of the frame or of the chunk's sound (in a second frame: to the same place in
    the first, as STVP), standardised over each modality's tokens of the chunk: how many deviations above the usual.
    Without variance all are 0. The highest of the chunk stay, up to the chunk's total (`Scope.JOINT`).

    The total of both modalities is the budget's, in every chunk; how it splits between them is the method's, so its
    counts per modality differ from those of other methods. As one half of a pair there is nothing to compete with:
    then each modality of a chunk keeps its own count. A baseline of this project; EchoingPixels (joint pool of trained
    scores) has the idea, but is trained.
    """

    name: ClassVar[str] = "joint"
    idea: ClassVar[str] = "lets picture and sound of a chunk compete in one pool"
    source: ClassVar[str] = "baseline of this project"
    scope = Scope.JOINT

    def score(self, stream: TokenStream) -> Tensor:
        """[L] float32: deviations above the mean of the token's modality in its chunk; NaN outside. One device sync."""
        raw, part = unlikeness(stream).cpu().double(), part_of(stream)
        parts = 2 * len(ChunkShapes.of(stream))
        away = raw - part_means(raw, part, parts)[part]
        spread = part_means(away.square(), part, parts).sqrt()[part]
        # What rounding leaves between equal tokens is no variance.
        z = torch.where(spread <= FLAT, torch.zeros_like(away), away / spread)
        return z.float().to(stream.embeds.device)

    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """Half of a pair: the frames of a chunk compete, to the picture's own count."""
        scores = self.score(stream)
        return Selection(keep=group(stream, counts, Scope.CHUNK).highest(scores), scores=scores)

    def select_audio(self, stream: TokenStream, counts: Counts, picture: Selection) -> Selection:  # noqa: ARG002
        """Half of a pair: the sound of a chunk, to its own count."""
        return self.select_video(stream, counts)
