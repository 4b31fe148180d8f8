"""How unlike its surroundings each token is, picture and sound: the score that `joint` and `routed` share."""

from __future__ import annotations

import torch
from torch import Tensor

from omnisift.chunks import segment_of, segment_sizes
from omnisift.compressors.frames import Frames, pair_cosine
from omnisift.compressors.segment_ops import mean_distance
from omnisift.tokens import Modality, TokenStream

FLAT = 1e-6
"""Cosine distances that differ by no more are equal: rounding of float32."""


def unlikeness(stream: TokenStream) -> Tensor:
    """[L] float32 on the device, in [0, 2]: 1 - cosine; NaN outside chunks.

    Picture as STVP (arXiv 2602.04804, eq 2-5): a first frame's tokens against their frame's mean, a second frame's
    against the same place in the first (against its own mean where the sizes differ). Sound against the mean of its
    chunk's sound.
    """
    frames = Frames.of(stream)
    spatial = mean_distance(stream.embeds, segment_of(stream), segment_sizes(stream).numel())
    # len(frames) leads nowhere: first frames have no neighbour here.
    to_first = torch.where(frames.cell % 2 == 1, -1, len(frames))
    temporal = 1 - pair_cosine(stream.embeds, frames.neighbour(to_first))
    return torch.where(temporal.isnan(), spatial, temporal).clamp(min=0)


def part_of(stream: TokenStream) -> Tensor:
    """[L] int64 on the CPU: 2 * chunk + (0 picture, 1 sound); -1 outside chunks."""
    audio = (stream.modality == Modality.AUDIO).long()
    return torch.where(stream.chunk >= 0, 2 * stream.chunk + audio, -1)


def part_means(values: Tensor, part: Tensor, parts: int) -> Tensor:
    """[S + 1] float64 on the CPU: mean of ``values`` [L] over the tokens of each part, 0 without any; NaN at the end.

    ``part`` [L] int64 on the CPU, -1 for none: as an index that is the NaN.
    """
    inside = part >= 0
    size = torch.bincount(part[inside], minlength=parts)
    total = torch.zeros(parts, dtype=torch.float64).index_add_(0, part[inside], values[inside].double())
    return torch.cat([total / size.clamp(min=1), total.new_tensor([torch.nan])])
