"""The frames of a stream in order of time, and how much a token differs from its frame and from other frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omnisift.chunks import ChunkShapes, segment_of, segment_sizes
from omnisift.ops.segments import mean_distance
from omnisift.ops.similarity import pair_cosine
from omnisift.tokens import Modality, TokenStream

EPSILON = 1e-6
"""Cosine distances that differ by no more count as equal: rounding of float32."""


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

    def partner(self) -> Tensor:
        """Return the token at the same place of the chunk's first frame, for tokens of second frames.

        Returns:
            [L] int64: token indices; -1 for first frames, where the sizes differ, and for all but video tokens.
        """
        # A step of len(self) is out of range: first frames have no neighbour.
        return self.neighbour(torch.where(self.cell % 2 == 1, -1, len(self)))

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


def of_modality(stream: TokenStream, modality: Modality) -> Tensor:
    """Return the tokens of a modality that may be dropped, [L] bool on the CPU."""
    return (stream.modality == modality) & (stream.chunk >= 0)


def chunk_distance(stream: TokenStream) -> Tensor:
    """Compute STVP's distance of each token to its surroundings in the chunk (arXiv 2602.04804, eq 2-4), in float32.

    Tokens of a first frame are compared with the mean of their frame, tokens of a second frame with the same place in
    the first (with their own mean where the sizes differ), audio with the mean of its chunk's audio.

    Returns:
        [L] float32 on the device, in [0, 2] up to rounding; NaN outside chunks.
    """
    # eq 2-3, and the same for audio.
    spatial = mean_distance(stream.embeds, segment_of(stream), segment_sizes(stream).numel())
    # eq 4.
    temporal = 1 - pair_cosine(stream.embeds, Frames.of(stream).partner())
    return torch.where(temporal.isnan(), spatial, temporal)


def distinctiveness(stream: TokenStream) -> Tensor:
    """Compute `chunk_distance` without the negative values of rounding, [L] float32 in [0, 2]; NaN outside chunks."""
    return chunk_distance(stream).clamp(min=0)


def chunk_modality(stream: TokenStream) -> Tensor:
    """Number the modalities of the chunks: [L] int64 on the CPU, 2 * chunk + (0 video, 1 audio); -1 outside chunks."""
    audio = (stream.modality == Modality.AUDIO).long()
    return torch.where(stream.chunk >= 0, 2 * stream.chunk + audio, -1)
