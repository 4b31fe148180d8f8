"""One pool for the video and audio of a chunk: a control for methods in which the modalities compete."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.budget import Counts
from omnisift.chunks import ChunkShapes
from omnisift.compressors.base import ScoredCompressor
from omnisift.ops.frames import EPSILON, chunk_modality, distinctiveness
from omnisift.ops.groups import Scope, group
from omnisift.ops.segments import value_means
from omnisift.tokens import Selection, TokenStream


class JointCompressor(ScoredCompressor):
    """Keep the tokens of a chunk, video or audio, that stand out most within their own modality.

    The score is the token's distinctiveness (its distance to the mean of its frame or of its chunk's audio; in a second
    frame, to the same place in the first), standardised over the tokens of its modality in the chunk; 0 where there is
    no variance. The highest scores of the chunk are kept, up to the chunk's total (`Scope.JOINT`).

    The total of both modalities in every chunk is the budget's, the split is the method's, so counts per modality
    differ from those of other methods. As half of a pair each modality keeps its own count. A baseline of this project;
    EchoingPixels ranks a joint pool too, by trained scores.
    """

    name: ClassVar[str] = "joint"
    idea: ClassVar[str] = "ranks the video and audio tokens of a chunk in one pool"
    source: ClassVar[str] = "baseline of this project"
    scope = Scope.JOINT
    reach = 0

    def score(self, stream: TokenStream) -> Tensor:
        """Return standard deviations above the mean of the token's modality in its chunk. One device sync.

        See `ScoredCompressor.score`.
        """
        raw, part = distinctiveness(stream).cpu().double(), chunk_modality(stream)
        parts = 2 * len(ChunkShapes.of(stream))
        centred = raw - value_means(raw, part, parts)[part]
        deviation = value_means(centred.square(), part, parts).sqrt()[part]
        # What rounding leaves between equal tokens is no variance.
        z = torch.where(deviation <= EPSILON, torch.zeros_like(centred), centred / deviation)
        return z.float().to(stream.embeds.device, non_blocking=True)

    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """As half of a pair: rank the two frames of a chunk together. See `Compressor.select_video`."""
        scores = self.score(stream)
        return Selection(keep=group(stream, counts, Scope.CHUNK).highest(scores), scores=scores)

    def select_audio(self, stream: TokenStream, counts: Counts, video: Selection) -> Selection:  # noqa: ARG002
        """As half of a pair: rank the audio of a chunk. See `Compressor.select_audio`."""
        return self.select_video(stream, counts)
