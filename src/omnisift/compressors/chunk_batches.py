"""Bounded blocks of many chunks, as rectangles: how a ragged batch runs without a loop over chunks and without a copy.

Chunks of one geometry (sizes and kept counts) form blocks of their own, without padding; rare geometries share blocks
with others of about their size. Blocks are small enough to stay in the cache, so every embedding is read from memory
once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from omnisift.budget import Counts
from omnisift.chunks import FRAME0, FRAME1, segment_of, segment_sizes
from omnisift.tokens import TokenStream


@dataclass(frozen=True)
class PaddedGroups:
    """One part (first frame, second frame or audio) of the chunks of a block."""

    index: Tensor
    """[G, N] int64 on the stream's device: places in the stream; padding repeats a neighbour's."""
    valid: Tensor | None
    """[G, N] bool on the stream's device, or None: nothing is padded."""
    rows: tuple[int, int] | None
    """(first place, distance of rows) where the rows are regular runs of the stream: then `take` is a view."""

    def take(self, embeds: Tensor) -> Tensor:
        """[G, N, D]: the embeddings. A view in inference where the layout allows it, else a copy of this block."""
        count, width = self.index.shape
        if self.rows is None or (embeds.requires_grad and torch.is_grad_enabled()):
            return embeds.index_select(0, self.index.flatten()).view(count, width, -1)
        first, step = self.rows
        stride = embeds.stride()
        offset = embeds.storage_offset() + first * stride[0]
        return embeds.as_strided((count, width, embeds.shape[1]), (step * stride[0], *stride), offset)

    def lowest(self, values: Tensor, kept: Tensor, most: int, even: bool) -> PaddedGroups:
        """The ``kept`` [G] places with the lowest ``values`` [G, N] of each row; ties keep the first.

        ``most`` is the largest of ``kept``, ``even`` says that all are equal.
        """
        values = torch.nan_to_num(values, nan=torch.finfo(values.dtype).max)  # broken tokens last, but before padding
        if self.valid is not None:
            values = values.masked_fill(~self.valid, torch.inf)
        column = torch.sort(values, dim=1, stable=True).indices[:, :most]
        valid = None if even else torch.arange(most, device=kept.device) < kept[:, None]
        return PaddedGroups(self.index.gather(1, column), valid, None)

    def beside(self, other: PaddedGroups) -> PaddedGroups:
        """Both next to each other, [G, N + M]."""
        index = torch.cat([self.index, other.index], dim=1)
        if self.valid is None or other.valid is None:
            return PaddedGroups(index, None, None)
        return PaddedGroups(index, torch.cat([self.valid, other.valid], dim=1), None)

    @property
    def some(self) -> Tensor | None:
        """`valid`, but a row without tokens counts all its padding: it is not used, and must not divide by zero."""
        return None if self.valid is None else self.valid | ~self.valid.any(dim=1, keepdim=True)

    def same_rows(self, other: PaddedGroups) -> Tensor | None:
        """[G] bool: whether a row is as long as the other's; None if all are."""
        if self.valid is None or other.valid is None:
            return None
        return (self.valid == other.valid).all(dim=1)

    def flat(self, length: int, rows: Tensor | None = None) -> Tensor:
        """[G * N] int64: the places, and ``length`` instead of padding and of all rows outside ``rows`` [G] bool."""
        valid = self.valid
        if rows is not None:
            valid = rows[:, None].expand_as(self.index) if valid is None else valid & rows[:, None]
        return (self.index if valid is None else self.index.masked_fill(~valid, length)).flatten()


@dataclass(frozen=True)
class Block:
    """Some chunks, and the largest size and kept count of each part among them."""

    chunks: slice
    """Which entries of `Layout.order`."""
    size: tuple[int, int, int]
    kept: tuple[int, int, int]
    even: bool
    """Whether all chunks of the block have these sizes and kept counts."""


class Layout:
    """Where the chunks of a stream lie, computed on the CPU and moved to the device once."""

    def __init__(self, stream: TokenStream, counts: Counts, limit: int) -> None:
        """``limit``: tokens of a block; one chunk may exceed it."""
        segment = segment_of(stream)
        inside = torch.nonzero(segment >= 0, as_tuple=True)[0]
        places = inside[torch.sort(segment[inside], stable=True).indices]
        self._size = segment_sizes(stream)
        self._kept = counts.by_segment().view(-1, 3)
        start = (torch.cumsum(self._size.flatten(), dim=0) - self._size.flatten()).view(-1, 3)
        self._first, self._solid = _runs(places, start, self._size)
        self.order, self._ends = _plan(torch.cat([self._size, self._kept], dim=1), limit)
        device = stream.embeds.device
        self._places = places.to(device)
        self._tables = torch.stack([start, self._size, self._kept])[:, self.order].to(device)

    def blocks(self) -> Iterator[Block]:
        """All chunks, block by block."""
        begin = 0
        for end in self._ends:
            span = self.order[begin:end]
            both = torch.cat([self._size[span], self._kept[span]], dim=1)
            top = both.amax(dim=0)
            n0, n1, na, k0, k1, ka = top.tolist()
            yield Block(slice(begin, end), (n0, n1, na), (k0, k1, ka), bool((both == top).all()))
            begin = end

    def rectangle(self, block: Block, part: int, width: int | None = None) -> PaddedGroups:
        """One part of a block, ``width`` columns wide (its largest size if None)."""
        width = block.size[part] if width is None else width
        start, size = self._tables[0, block.chunks, part], self._tables[1, block.chunks, part]
        column = torch.arange(width, device=start.device)
        index = self._places[(start[:, None] + column).clamp(max=len(self._places) - 1)]
        if block.even:
            return PaddedGroups(index, None, self._rows(block, part))
        return PaddedGroups(index, column < size[:, None], None)

    def chosen(self, keep: Tensor, block: Block) -> PaddedGroups:
        """The video tokens of each chunk that ``keep`` [L] holds, in order; all of them where it holds none."""
        both = self.rectangle(block, FRAME0)
        if block.size[FRAME1]:
            both = both.beside(self.rectangle(block, FRAME1))
        valid = torch.ones_like(both.index, dtype=torch.bool) if both.valid is None else both.valid
        chosen = keep[both.index] & valid
        chosen = torch.where(chosen.any(dim=1, keepdim=True), chosen, valid)
        count = chosen.sum(dim=1)
        return both.lowest((~chosen).float(), count, int(count.max()), even=False)

    def kept(self, block: Block, part: int) -> Tensor:
        """[G] int64 on the device: how many of a part stay."""
        return self._tables[2, block.chunks, part]

    def _rows(self, block: Block, part: int) -> tuple[int, int] | None:
        span = self.order[block.chunks]
        first = self._first[span, part]
        if not bool(self._solid[span, part].all()) or block.size[part] == 0:
            return None
        step = int(first[1] - first[0]) if len(first) > 1 else block.size[part]
        regular = step >= block.size[part] and bool((first.diff() == step).all())
        return (int(first[0]), step) if regular else None


def _runs(places: Tensor, start: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """[C, 3] each: first place of every segment, and whether the segment is one run of the stream."""
    if not len(places):
        return torch.zeros_like(start), torch.zeros_like(start, dtype=torch.bool)
    first = places[start.clamp(max=len(places) - 1)]
    last = places[(start + size - 1).clamp(min=0)]
    return first, last - first == size - 1


def _plan(geometry: Tensor, limit: int) -> tuple[Tensor, list[int]]:
    """Order the chunks ([C, 6]: sizes and kept counts) and cut the order into blocks. Returns [C] int64 and the
    ends."""
    if not len(geometry):
        return torch.zeros(0, dtype=torch.int64), []
    _, kind, count = torch.unique(geometry, dim=0, return_inverse=True, return_counts=True)
    tokens = geometry[:, :3].sum(dim=1)
    # A geometry that fills half a block gets blocks of its own. The others are pooled with those of about their size
    # (within a factor of two in video and in audio), so that padding at most doubles a block and their number stays
    # small.
    alone = tokens * count[kind] * 2 >= limit
    scale = torch.log2((torch.stack([geometry[:, :2].amax(dim=1), geometry[:, 2]]) + 1).double()).long()
    pool = -1 - (64 * scale[0] + scale[1])
    group = torch.unique(torch.where(alone, kind, pool), return_inverse=True)[1]
    order = torch.argsort(group * len(count) + kind, stable=True)

    group = group[order]
    largest = torch.zeros(int(group[-1]) + 1, dtype=torch.int64).scatter_reduce_(0, group, tokens[order], reduce="amax")
    # Pooled blocks are copied and padded, the others are views.
    room = torch.full_like(largest, limit).index_fill_(0, group[~alone[order]], limit // 2)
    rows = (room // largest).clamp(min=1)
    place = torch.arange(len(group)) - torch.searchsorted(group, group)
    block = place // rows[group]
    ends = torch.nonzero((group.diff() != 0) | (block.diff() != 0), as_tuple=True)[0] + 1
    return order, [*ends.tolist(), len(order)]
