"""OmniFocus without its question: half of a chunk's tokens fit the other modality, half stand out in their own."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from omnisift.budget import Counts
from omnisift.compressors.base import Compressor
from omnisift.ops.frames import chunk_modality
from omnisift.ops.groups import Scope, group
from omnisift.ops.segments import group_means
from omnisift.ops.similarity import rounded, row_cosine
from omnisift.tokens import Selection, TokenStream


class OmniFocusCompressor(Compressor):
    """Token selection of OmniFocus (arXiv 2607.03050): association with the other modality, then peaks of the own.

    Of the k tokens that a modality keeps in a chunk, ``floor(k / 2)`` have the highest cosine with the mean of the
    other modality's tokens in the chunk, and the rest the lowest cosine with the mean of their own. Counts are by
    `Scope.CHUNK`. Deviations from the paper:

    - the question is left out: a compressor reads the clip only. Published, the question sets how much of a chunk is
      dropped, by its largest cosine with the chunk's tokens; here every chunk has the budget's own count;
    - a token with both high scores counts as associated, and the next peak takes its place; the paper leaves that open;
    - in a chunk without the other modality, all tokens are chosen as peaks;
    - of equal cosines the first token is kept; they are rounded to about 1e-6 (`omnisift.ops.similarity`).
    """

    name: ClassVar[str] = "omnifocus"
    idea: ClassVar[str] = "keeps tokens that fit the other modality, and tokens unlike their own"
    source: ClassVar[str] = "arXiv 2607.03050"
    reach = 0

    @property
    def label(self) -> str:
        """``omnifocus-no-question``, since the published method divides the budget by the question."""
        return f"{self.name}-no-question"

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Select by association, then by peaks, in every chunk's video and audio. See `Compressor.select`."""
        association, peak = association_and_peak(stream)
        groups = group(stream, counts, Scope.CHUNK)
        # A group is half of a chunk; where the other half has no tokens, none is chosen by association.
        paired = groups.size.view(len(groups.kept) // 2, 2).flip(1).flatten() > 0
        associated = replace(groups, kept=torch.where(paired, groups.kept // 2, 0)).highest(association)
        return Selection(keep=groups.highest(torch.where(associated, torch.inf, peak)))


def association_and_peak(stream: TokenStream) -> tuple[Tensor, Tensor]:
    """Compute the two scores of each token in a chunk.

    Returns:
        Two [L] float32 on the device: the cosine with the mean of the other modality in the chunk, in [-1, 1], and one
        minus the cosine with the mean of the own, in [0, 2]. 0 and 1 outside chunks or where there is no other.
    """
    part, embeds = chunk_modality(stream), stream.embeds.detach()
    means = group_means(embeds, part, int(part.max()) // 2 * 2 + 2 if len(part) else 0)
    own = rounded(row_cosine(embeds, means, part))
    other = rounded(row_cosine(embeds, means, torch.where(part >= 0, part ^ 1, -1)))
    return other, 1 - own
