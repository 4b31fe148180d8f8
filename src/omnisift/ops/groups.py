"""Ranking groups: sets of tokens that share one budget, and their padded batches.

The paper ranks every frame and every chunk's audio separately. Other methods rank all frames of a chunk or of a clip
together, or both modalities. Whatever the scope, the totals are those of the budget.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from omnisift.budget import Counts
from omnisift.chunks import AUDIO, ChunkShapes, segment_of
from omnisift.ops import similarity
from omnisift.ops.topk import segment_topk
from omnisift.tokens import Modality, TokenStream


class Scope(str, Enum):
    """Which tokens share one count."""

    FRAME = "frame"
    """Every frame separately, every chunk's audio separately, as in the paper."""
    CHUNK = "chunk"
    """The two frames of a chunk together; every chunk's audio separately."""
    CLIP = "clip"
    """All frames of a clip together; all its audio together."""
    JOINT = "joint"
    """Video and audio of a chunk together: the sum of both counts is kept, the split is free."""


@dataclass(frozen=True)
class Window:
    """Some groups as a padded tensor: ``G`` groups, ``N`` tokens in the largest."""

    index: Tensor
    """[G, N] int64 on the device: token indices in the stream, in order; padding repeats the group's first."""
    valid: Tensor
    """[G, N] bool on the device, False on padding."""
    kept: Tensor
    """[G] int64 on the device: kept tokens of each group."""
    max_kept: int
    """The largest of ``kept``."""


@dataclass(frozen=True)
class Groups:
    """A partition of the tokens inside chunks into ``S`` groups, each with its count."""

    group: Tensor
    """[L] int64 on the CPU: group of each token; -1 where nothing is dropped."""
    kept: Tensor
    """[S] int64 on the CPU: kept tokens of each group."""

    @property
    def size(self) -> Tensor:
        """[S] int64 on the CPU: tokens of each group."""
        return torch.bincount(self.group[self.group >= 0], minlength=len(self.kept))

    def highest(self, scores: Tensor) -> Tensor:
        """Select the highest scores of every group.

        Args:
            scores: [L] float; NaN ranks last.

        Returns:
            [L] bool on the scores' device; True for all tokens outside groups. Of equal scores the first is kept.
        """
        # Tokens outside groups form a last group, which is kept in full.
        group = torch.where(self.group < 0, len(self.kept), self.group)
        kept = torch.cat([self.kept, self.kept.new_tensor([len(self.group)])])
        scores = torch.nan_to_num(scores, nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        return segment_topk(
            scores, group.to(scores.device, non_blocking=True), kept.to(scores.device, non_blocking=True)
        )

    def windows(self, device: torch.device, *, width: int = 0, matrices: int = 1) -> Iterator[Window]:
        """Yield all groups that have tokens, the largest first, in padded batches of bounded size.

        Tensors of a batch have at most `MAX_ELEMENTS` of `omnisift.ops.similarity`, or those of one group.

        Args:
            device: where the tensors go.
            width: hidden size D of the embeddings [G, N, D] that the caller gathers; 0 if it gathers none.
            matrices: matrices [G, N, N] that the caller holds at a time.
        """
        # Token indices ordered by group, and the groups ordered by size.
        inside = torch.nonzero(self.group >= 0, as_tuple=True)[0]
        tokens = inside[torch.sort(self.group[inside], stable=True).indices]
        size = self.size
        start = torch.cumsum(size, dim=0) - size
        order = torch.argsort(size, descending=True, stable=True)
        order = order[size[order] > 0]
        largest = int(size.max()) if len(size) else 0
        begin = 0
        while begin < len(order):
            # The first group of a batch is its largest and sets the number of columns.
            columns = int(size[order[begin]])
            elements = columns * (max(width, largest) if width else matrices * columns)
            batch = order[begin : begin + max(1, similarity.MAX_ELEMENTS // elements)]
            column = torch.arange(columns)
            valid = column < size[batch, None]
            index = tokens[torch.where(valid, start[batch, None] + column, start[batch, None])]
            kept = self.kept[batch]
            yield Window(
                index.to(device, non_blocking=True),
                valid.to(device, non_blocking=True),
                kept.to(device, non_blocking=True),
                int(kept.max()),
            )
            begin += len(batch)


def group(
    stream: TokenStream,
    counts: Counts,
    scope: Scope = Scope.FRAME,
    *,
    modality: Modality | None = None,
    chunks: int = 1,
) -> Groups:
    """Group the tokens of a stream.

    Args:
        stream: the tokens of the batch.
        counts: kept tokens of every chunk; a group keeps their sum.
        scope: which tokens form a group.
        modality: the only modality to group; None means both.
        chunks: consecutive chunks of a clip that form one window, with `Scope.CHUNK` and `Scope.JOINT`.

    Returns:
        The groups.
    """
    number = _group_numbers(stream, Scope(scope), chunks)  # [3C]: group of each segment
    # Tokens: the group of their segment.
    segment = segment_of(stream)
    index = torch.where(segment >= 0, number[segment.clamp(min=0)] if len(number) else -1, -1)
    if modality is not None:
        index = torch.where(stream.modality == modality, index, -1)
    # Counts: the sum over the group's segments.
    per_segment = counts.by_segment()
    if modality is not None:
        audio = torch.arange(len(per_segment)) % 3 == AUDIO
        per_segment = torch.where(audio == (modality == Modality.AUDIO), per_segment, 0)
    groups = int(number.max()) + 1 if len(number) else 0
    return Groups(index, torch.zeros(groups, dtype=torch.int64).index_add_(0, number, per_segment))


def _group_numbers(stream: TokenStream, scope: Scope, chunks: int) -> Tensor:
    """Group of each segment (first frame, second frame, audio of every chunk), [3C] int64."""
    clip = ChunkShapes.of(stream).clip
    chunk = torch.arange(len(clip))
    audio = torch.tensor([0, 0, 1])
    if scope is Scope.FRAME:
        return torch.arange(3 * len(clip))
    if scope is Scope.CLIP:
        return (2 * clip[:, None] + audio).flatten()
    # Windows of consecutive chunks, counted in each clip.
    window = (chunk - torch.searchsorted(clip, clip)) // max(1, chunks)
    opens = torch.ones_like(chunk, dtype=torch.bool)
    opens[1:] = (window[1:] != window[:-1]) | (clip[1:] != clip[:-1])
    number = torch.cumsum(opens, dim=0) - 1
    return number.repeat_interleave(3) if scope is Scope.JOINT else (2 * number[:, None] + audio).flatten()
