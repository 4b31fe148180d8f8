"""Batches of chunks as padded tensors: a ragged stream without a loop over chunks, mostly without copies.

Chunks with the same sizes and kept counts form batches without padding; rare combinations share batches with chunks of
about their size. Batches are small enough for the cache, so every embedding is read from memory once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from omnisift.budget import Counts
from omnisift.chunks import AUDIO, FRAME0, FRAME1, segment_of, segment_sizes
from omnisift.tokens import TokenStream


@dataclass(frozen=True)
class PaddedGroups:
    """Token indices of one segment (first frame, second frame or audio) of G chunks, padded to N columns."""

    index: Tensor
    """[G, N] int64 on the stream's device: indices in the stream; padding repeats any valid index."""
    valid: Tensor | None
    """[G, N] bool on the stream's device, False on padding; None if nothing is padded."""
    strides: tuple[int, int] | None
    """(first index, distance of rows) if the rows are evenly spaced runs of the stream; then `take` is a view."""

    def take(self, embeds: Tensor) -> Tensor:
        """Gather the embeddings, [G, N, D]: a view in inference where the rows allow it, else a copy."""
        count, width = self.index.shape
        if self.strides is None or (embeds.requires_grad and torch.is_grad_enabled()):
            return embeds.index_select(0, self.index.flatten()).view(count, width, embeds.shape[1])
        first, step = self.strides
        stride = embeds.stride()
        offset = embeds.storage_offset() + first * stride[0]
        return embeds.as_strided((count, width, embeds.shape[1]), (step * stride[0], *stride), offset)

    def lowest(self, values: Tensor, kept: Tensor, max_kept: int, same_kept: bool) -> PaddedGroups:
        """Select the lowest values of each row; of equal values the first.

        Args:
            values: [G, N] float.
            kept: [G] int64: tokens selected in each row.
            max_kept: the largest of ``kept``.
            same_kept: whether all of ``kept`` are equal.

        Returns:
            The selected tokens, [G, max_kept].
        """
        values = torch.nan_to_num(values, nan=torch.finfo(values.dtype).max)  # NaN last, but before padding
        if self.valid is not None:
            values = values.masked_fill(~self.valid, torch.inf)
        column = torch.sort(values, dim=1, stable=True).indices[:, :max_kept]
        valid = None if same_kept else torch.arange(max_kept, device=kept.device) < kept[:, None]
        return PaddedGroups(self.index.gather(1, column), valid, None)

    def concat(self, other: PaddedGroups) -> PaddedGroups:
        """Concatenate the rows of both, [G, N + M]."""
        index = torch.cat([self.index, other.index], dim=1)
        if self.valid is None or other.valid is None:
            return PaddedGroups(index, None, None)
        return PaddedGroups(index, torch.cat([self.valid, other.valid], dim=1), None)

    @property
    def valid_or_empty(self) -> Tensor | None:
        """`valid`, but True throughout rows without tokens: their results are unused and must not divide by zero."""
        return None if self.valid is None else self.valid | ~self.valid.any(dim=1, keepdim=True)

    def same_size(self, other: PaddedGroups) -> Tensor | None:
        """Return whether each row has as many tokens as the other's, [G] bool; None if all have."""
        if self.valid is None or other.valid is None:
            return None
        return (self.valid == other.valid).all(dim=1)

    def flat(self, length: int, rows: Tensor | None = None) -> Tensor:
        """Flatten the indices.

        Args:
            length: the index that replaces padding.
            rows: [G] bool, or None: rows whose tokens are all replaced too, where False.

        Returns:
            [G * N] int64.
        """
        valid = self.valid
        if rows is not None:
            valid = rows[:, None].expand_as(self.index) if valid is None else valid & rows[:, None]
        return (self.index if valid is None else self.index.masked_fill(~valid, length)).flatten()


@dataclass(frozen=True)
class ChunkBatch:
    """Some chunks, with the largest size and kept count of each segment among them."""

    chunks: slice
    """Entries of `ChunkBatches.order`."""
    size: tuple[int, int, int]
    """Largest size of first frame, second frame and audio."""
    kept: tuple[int, int, int]
    """Largest kept count of each."""
    even: bool
    """Whether all chunks of the batch have exactly these sizes and kept counts."""


class ChunkBatches:
    """The chunks of a stream in batches; indices are computed on the CPU and moved to the device once.

    Args:
        stream: the tokens of the batch.
        counts: kept tokens of every chunk.
        limit: tokens of a batch of chunks; a single chunk may exceed it.
    """

    def __init__(self, stream: TokenStream, counts: Counts, limit: int) -> None:
        # Token indices ordered by segment, and where each segment begins in that order.
        segment = segment_of(stream)
        inside = torch.nonzero(segment >= 0, as_tuple=True)[0]
        tokens = inside[torch.sort(segment[inside], stable=True).indices]
        self._size = segment_sizes(stream)
        self._kept = counts.by_segment().view(-1, 3)
        start = (torch.cumsum(self._size.flatten(), dim=0) - self._size.flatten()).view(-1, 3)
        self._first, self._contiguous = _runs(tokens, start, self._size)
        # Chunks ordered into batches.
        self.order, self._ends = _plan(torch.cat([self._size, self._kept], dim=1), limit)
        device = stream.embeds.device
        self._tokens = tokens.to(device, non_blocking=True)
        self._tables = torch.stack([start, self._size, self._kept])[:, self.order].to(device, non_blocking=True)

    def __iter__(self) -> Iterator[ChunkBatch]:
        """Yield the batches; together they cover every chunk once."""
        begin = 0
        for end in self._ends:
            chunks = self.order[begin:end]
            sizes = torch.cat([self._size[chunks], self._kept[chunks]], dim=1)
            largest = sizes.amax(dim=0)
            n0, n1, na, k0, k1, ka = largest.tolist()
            yield ChunkBatch(slice(begin, end), (n0, n1, na), (k0, k1, ka), bool((sizes == largest).all()))
            begin = end

    def padded(self, batch: ChunkBatch, segment: int, width: int | None = None) -> PaddedGroups:
        """Return one segment of the chunks of a batch.

        Args:
            batch: from iterating over this object.
            segment: FRAME0, FRAME1 or AUDIO.
            width: number of columns; None means the largest size.
        """
        width = batch.size[segment] if width is None else width
        start, size = self._tables[0, batch.chunks, segment], self._tables[1, batch.chunks, segment]
        column = torch.arange(width, device=start.device)
        index = self._tokens[(start[:, None] + column).clamp(max=len(self._tokens) - 1)]
        if batch.even:
            return PaddedGroups(index, None, self._strides(batch, segment))
        return PaddedGroups(index, column < size[:, None], None)

    def kept_video(self, keep: Tensor, batch: ChunkBatch) -> PaddedGroups:
        """Return the kept video tokens of each chunk, in order; all of a chunk's video tokens if none is kept.

        Args:
            keep: [L] bool on the stream's device.
            batch: from iterating over this object.
        """
        video = self.padded(batch, FRAME0)
        if batch.size[FRAME1]:
            video = video.concat(self.padded(batch, FRAME1))
        valid = torch.ones_like(video.index, dtype=torch.bool) if video.valid is None else video.valid
        kept = keep[video.index] & valid
        kept = torch.where(kept.any(dim=1, keepdim=True), kept, valid)
        count = kept.sum(dim=1)
        return video.lowest((~kept).float(), count, int(count.max()), same_kept=False)

    def kept(self, batch: ChunkBatch, segment: int) -> Tensor:
        """Return the kept count of one segment of each chunk of a batch, [G] int64 on the device."""
        return self._tables[2, batch.chunks, segment]

    def prunes_audio(self, batch: ChunkBatch) -> Tensor:
        """Return which chunks of a batch lose audio tokens, [G] bool on the CPU."""
        chunks = self.order[batch.chunks]
        return self._kept[chunks, AUDIO] < self._size[chunks, AUDIO]

    def prunes_unguided(self, batch: ChunkBatch) -> Tensor:
        """Return which chunks of a batch lose audio tokens and keep no video token, [G] bool on the CPU."""
        return self.prunes_audio(batch) & (self._kept[self.order[batch.chunks], :AUDIO].sum(dim=1) == 0)

    def prunes_unpaired(self, batch: ChunkBatch) -> Tensor:
        """Return which chunks of a batch lose tokens of a second frame of another size than the first, [G] bool."""
        size, kept = self._size[self.order[batch.chunks]], self._kept[self.order[batch.chunks]]
        return (size[:, FRAME0] != size[:, FRAME1]) & (kept[:, FRAME1] < size[:, FRAME1])

    def _strides(self, batch: ChunkBatch, segment: int) -> tuple[int, int] | None:
        chunks = self.order[batch.chunks]
        first = self._first[chunks, segment]
        if not bool(self._contiguous[chunks, segment].all()) or batch.size[segment] == 0:
            return None
        step = int(first[1] - first[0]) if len(first) > 1 else batch.size[segment]
        regular = step >= batch.size[segment] and bool((first.diff() == step).all())
        return (int(first[0]), step) if regular else None


def _runs(tokens: Tensor, start: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """First token of every segment, and whether the segment is one run of the stream, [C, 3] each."""
    if not len(tokens):
        return torch.zeros_like(start), torch.zeros_like(start, dtype=torch.bool)
    first = tokens[start.clamp(max=len(tokens) - 1)]
    last = tokens[(start + size - 1).clamp(min=0)]
    return first, last - first == size - 1


def _plan(geometry: Tensor, limit: int) -> tuple[Tensor, list[int]]:
    """Order the chunks ([C, 6]: sizes and kept counts) into batches. Returns the order, [C] int64, and their ends."""
    if not len(geometry):
        return torch.zeros(0, dtype=torch.int64), []
    _, kind, count = torch.unique(geometry, dim=0, return_inverse=True, return_counts=True)
    tokens = geometry[:, :3].sum(dim=1)
    # A geometry that fills half a batch has batches of its own. The others are pooled with those of about their size
    # (within a factor of two in video and in audio), so that padding at most doubles a batch and there are few batches.
    alone = tokens * count[kind] * 2 >= limit
    scale = torch.log2((torch.stack([geometry[:, :2].amax(dim=1), geometry[:, 2]]) + 1).double()).long()
    pool = -1 - (64 * scale[0] + scale[1])
    group = torch.unique(torch.where(alone, kind, pool), return_inverse=True)[1]
    order = torch.argsort(group * len(count) + kind, stable=True)

    # Chunks per batch, from the largest chunk of the group. Pooled batches are copied and padded, the others are views.
    group = group[order]
    largest = torch.zeros(int(group[-1]) + 1, dtype=torch.int64).scatter_reduce_(0, group, tokens[order], reduce="amax")
    capacity = torch.full_like(largest, limit).index_fill_(0, group[~alone[order]], limit // 2)
    rows = (capacity // largest).clamp(min=1)
    # A batch ends with its group, or when it is full.
    rank = torch.arange(len(group)) - torch.searchsorted(group, group)
    batch = rank // rows[group]
    ends = torch.nonzero((group.diff() != 0) | (batch.diff() != 0), as_tuple=True)[0] + 1
    return order, [*ends.tolist(), len(order)]
