"""Who competes with whom: groups of tokens that share one count, and those groups as rectangles.

The paper ranks every frame and every chunk's sound by itself. Other methods let all frames of a chunk or of a clip
compete, or both modalities. The totals stay those of the budget, whatever the scope.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from omnisift.budget import Counts
from omnisift.chunks import AUDIO, ChunkShapes, segment_of
from omnisift.straight_through import segment_topk
from omnisift.tokens import Modality, TokenStream

CELLS = 1 << 24
"""Numbers in the largest matrix of a block of windows: 64 MiB in float32."""


class Scope(str, Enum):
    """Which tokens share one count."""

    FRAME = "frame"
    """Every frame by itself, every chunk's sound by itself: the paper's."""
    CHUNK = "chunk"
    """The two frames of a chunk together; every chunk's sound by itself."""
    CLIP = "clip"
    """All frames of a clip together; all its sound together."""
    JOINT = "joint"
    """Picture and sound of a chunk in one pool: the total of both counts stays, their shares are free."""


@dataclass(frozen=True)
class Window:
    """Some groups as a rectangle. ``G`` groups, ``N`` tokens in the largest."""

    place: Tensor
    """[G, N] int64 on the device: places in the stream, in order; padding repeats the group's first."""
    valid: Tensor
    """[G, N] bool on the device: False on padding."""
    kept: Tensor
    """[G] int64 on the device: how many of each group stay."""
    most: int
    """The largest of ``kept``."""


@dataclass(frozen=True)
class Groups:
    """A partition of a stream's chunk tokens into ``S`` groups, each with its count."""

    index: Tensor
    """[L] int64 on the CPU: group of each token; -1 where nothing is dropped."""
    kept: Tensor
    """[S] int64 on the CPU: how many of each group stay."""

    @property
    def size(self) -> Tensor:
        """[S] int64 on the CPU: tokens of each group."""
        return torch.bincount(self.index[self.index >= 0], minlength=len(self.kept))

    def highest(self, scores: Tensor) -> Tensor:
        """[L] bool on the scores' device: the best of every group and all tokens outside; ties keep the first.

        ``scores`` [L] float; NaN ranks last.
        """
        # Tokens outside form one last group that is kept whole.
        index = torch.where(self.index < 0, len(self.kept), self.index)
        kept = torch.cat([self.kept, self.kept.new_tensor([len(self.index)])])
        scores = torch.nan_to_num(scores, nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        return segment_topk(scores, index.to(scores.device), kept.to(scores.device))

    def windows(self, device: torch.device, *, power: int = 2, cells: int = CELLS) -> Iterator[Window]:
        """All groups that have tokens, the largest first, a bounded number at a time.

        A block of G groups of at most N tokens has G * N ** power <= ``cells``, or is one group.
        """
        inside = torch.nonzero(self.index >= 0, as_tuple=True)[0]
        places = inside[torch.sort(self.index[inside], stable=True).indices]
        size = self.size
        start = torch.cumsum(size, dim=0) - size
        order = torch.argsort(size, descending=True, stable=True)
        order = order[size[order] > 0]
        begin = 0
        while begin < len(order):
            widest = int(size[order[begin]])
            block = order[begin : begin + max(1, cells // widest**power)]
            column = torch.arange(widest)
            valid = column < size[block, None]
            place = places[torch.where(valid, start[block, None] + column, start[block, None])]
            kept = self.kept[block]
            yield Window(place.to(device), valid.to(device), kept.to(device), int(kept.max()))
            begin += len(block)


def group(
    stream: TokenStream,
    counts: Counts,
    scope: Scope = Scope.FRAME,
    *,
    modality: Modality | None = None,
    chunks: int = 1,
) -> Groups:
    """Groups of a stream by ``scope``.

    ``modality`` leaves the other one out. ``chunks`` > 1 joins so many consecutive chunks of a clip into one window
    (with `Scope.CHUNK` and `Scope.JOINT`).
    """
    number = _numbers(stream, Scope(scope), chunks)  # [3C]: group of each segment
    segment = segment_of(stream)
    index = torch.where(segment >= 0, number[segment.clamp(min=0)] if len(number) else -1, -1)
    if modality is not None:
        index = torch.where(stream.modality == modality, index, -1)
    per_segment = counts.by_segment()
    if modality is not None:
        audio = torch.arange(len(per_segment)) % 3 == AUDIO
        per_segment = torch.where(audio == (modality == Modality.AUDIO), per_segment, 0)
    groups = int(number.max()) + 1 if len(number) else 0
    return Groups(index, torch.zeros(groups, dtype=torch.int64).index_add_(0, number, per_segment))


def _numbers(stream: TokenStream, scope: Scope, chunks: int) -> Tensor:
    """[3C] int64: number of the group of each segment (first frame, second frame, sound of every chunk)."""
    clip = ChunkShapes.of(stream).clip
    chunk = torch.arange(len(clip))
    audio = torch.tensor([0, 0, 1])
    if scope is Scope.FRAME:
        return torch.arange(3 * len(clip))
    if scope is Scope.CLIP:
        return (2 * clip[:, None] + audio).flatten()
    window = (chunk - torch.searchsorted(clip, clip)) // max(1, chunks)  # of the clip
    opens = torch.ones_like(chunk, dtype=torch.bool)
    opens[1:] = (window[1:] != window[:-1]) | (clip[1:] != clip[:-1])
    number = torch.cumsum(opens, dim=0) - 1
    return number.repeat_interleave(3) if scope is Scope.JOINT else (2 * number[:, None] + audio).flatten()
