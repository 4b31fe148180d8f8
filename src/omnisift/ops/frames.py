"""The frames of a stream in order of time, and the tokens at the same place of neighbouring frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.chunks import ChunkShapes
from omnisift.ops.merging import add_rows
from omnisift.tokens import Modality, TokenStream

MAX_ELEMENTS = 1 << 24
"""Elements of the embeddings that elementwise work processes at a time."""


@dataclass(frozen=True)
class Frames:
    """All frames of a batch, numbered by clip and time; on the CPU, from positions alone."""

    number: Tensor
    """[L] int64: frame of each video token; -1 for all other tokens."""
    place: Tensor
    """[L] int64: index of each video token in its frame; -1 for all other tokens."""
    order: Tensor
    """[V] int64: indices of the video tokens in the stream, frame by frame."""
    start: Tensor
    """[F] int64: where each frame begins in ``order``."""
    size: Tensor
    """[F] int64: tokens of each frame, at least 1."""
    clip: Tensor
    """[F] int64: clip of each frame."""
    rank: Tensor
    """[F] int64: index of each frame in its clip."""
    cell: Tensor
    """[F] int64: 2 * chunk + (0 first, 1 second frame): where the frame is in a [C, 2] table."""

    @classmethod
    def of(cls, stream: TokenStream) -> Frames:
        """Number the frames of ``stream``."""
        # Sort video tokens by (chunk, frame), which is the order of time inside each clip.
        video = torch.nonzero(stream.frame >= 0, as_tuple=True)[0]
        key = 2 * stream.chunk[video] + stream.frame[video]
        order = video[torch.sort(key, stable=True).indices]
        cell, size = torch.unique_consecutive(2 * stream.chunk[order] + stream.frame[order], return_counts=True)
        start = torch.cumsum(size, dim=0) - size
        clip = ChunkShapes.of(stream).clip[cell // 2] if len(cell) else cell
        # Back to the order of the stream.
        number, place = torch.full((len(stream),), -1), torch.full((len(stream),), -1)
        number[order] = torch.arange(len(cell)).repeat_interleave(size)
        place[order] = torch.arange(len(order)) - start.repeat_interleave(size)
        rank = torch.arange(len(cell)) - torch.searchsorted(clip, clip)
        return cls(number, place, order, start, size, clip, rank, cell)

    def __len__(self) -> int:
        return len(self.size)

    def neighbour(self, step: Tensor | int) -> Tensor:
        """Return the token at the same place ``step`` frames later (negative: earlier) in the same clip.

        Args:
            step: a number, or [F] int64 for each frame.

        Returns:
            [L] int64: token indices; -1 where there is no such frame, where the frames' sizes differ, and for all but
            video tokens.
        """
        frame = torch.arange(len(self)) + step
        inside = (frame >= 0) & (frame < len(self))
        frame = frame.clamp(0, max(0, len(self) - 1))
        comparable = inside & (self.clip[frame] == self.clip) & (self.size[frame] == self.size)
        result = torch.full_like(self.number, -1)
        video = self.number >= 0
        frame_of = self.number[video]
        other = self.order[(self.start[frame[frame_of]] + self.place[video]).clamp(max=max(0, len(self.order) - 1))]
        result[video] = torch.where(comparable[frame_of], other, -1)
        return result

    def means(self, embeds: Tensor) -> Tensor:
        """Compute the mean token of each frame, [F, D] float32 on the device, from ``embeds`` [L, D]."""
        total = torch.zeros(len(self), embeds.shape[1], device=embeds.device)
        number = self.number[self.order].to(embeds.device)
        for token, frame in _blocks(embeds, self.order.to(embeds.device), number):
            add_rows(total, frame, embeds[token].float())
        return total / self.size.to(embeds.device).unsqueeze(1)

    def table(self, values: Tensor, chunks: int) -> Tensor:
        """Arrange values by chunk.

        Args:
            values: [F], one per frame.
            chunks: number of chunks C.

        Returns:
            [C, 2] on the CPU; 0 where a chunk has no second frame.
        """
        table = torch.zeros(2 * chunks, dtype=values.dtype)
        table[self.cell] = values.cpu()
        return table.view(chunks, 2)


def pair_cosine(embeds: Tensor, other: Tensor, default: float = torch.nan) -> Tensor:
    """Compute the cosine of each token with another one.

    Args:
        embeds: [L, D].
        other: [L] int64: index of the other token, -1 for none.
        default: the value where there is none.

    Returns:
        [L] float32 on the device. Zero vectors have cosine 0.
    """
    return row_cosine(embeds, embeds, other, default)


def row_cosine(embeds: Tensor, rows: Tensor, row: Tensor, default: float = torch.nan) -> Tensor:
    """Compute the cosine of each token with a row of a table, a bounded number of embeddings at a time.

    Args:
        embeds: [L, D].
        rows: [R, D].
        row: [L] int64: row of each token, -1 for none.
        default: the value where there is none.

    Returns:
        [L] float32 on the device. Zero vectors have cosine 0.
    """
    result = torch.full((len(embeds),), float(default), device=embeds.device)
    token = torch.nonzero(row >= 0, as_tuple=True)[0]
    partner = row[token].to(embeds.device)
    for left, right in _blocks(embeds, token.to(embeds.device), partner):
        result[left] = F.cosine_similarity(embeds[left].float(), rows[right].float(), dim=-1)
    return result


def of_modality(stream: TokenStream, modality: Modality) -> Tensor:
    """Return the tokens of a modality that may be dropped, [L] bool on the CPU."""
    return (stream.modality == modality) & (stream.chunk >= 0)


def _blocks(embeds: Tensor, left: Tensor, right: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    step = max(1, MAX_ELEMENTS // max(1, embeds.shape[1]))
    yield from zip(torch.split(left, step), torch.split(right, step), strict=True)
