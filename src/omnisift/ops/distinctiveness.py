"""Distinctiveness: how much each token differs from its surroundings; shared by `joint` and `routed`."""

from __future__ import annotations

import torch
from torch import Tensor

from omnisift.chunks import segment_of, segment_sizes
from omnisift.ops.frames import Frames, pair_cosine
from omnisift.ops.segment_ops import mean_distance
from omnisift.tokens import Modality, TokenStream

EPSILON = 1e-6
"""Cosine distances that differ by no more count as equal: rounding of float32."""


def distinctiveness(stream: TokenStream) -> Tensor:
    """Compute the cosine distance of each token to its surroundings.

    Video as in STVP (arXiv 2602.04804, eq 2-4): tokens of a first frame against the mean of their frame, tokens of a
    second frame against the same place in the first (against their own mean where the sizes differ). Audio against the
    mean of its chunk's audio.

    Returns:
        [L] float32 on the device, in [0, 2]; NaN outside chunks.
    """
    frames = Frames.of(stream)
    # eq 2-3, and the same for audio.
    spatial = mean_distance(stream.embeds, segment_of(stream), segment_sizes(stream).numel())
    # eq 4. A step of len(frames) is out of range: first frames have no neighbour here.
    to_first = torch.where(frames.cell % 2 == 1, -1, len(frames))
    temporal = 1 - pair_cosine(stream.embeds, frames.neighbour(to_first))
    return torch.where(temporal.isnan(), spatial, temporal).clamp(min=0)


def chunk_modality(stream: TokenStream) -> Tensor:
    """Number the modalities of the chunks: [L] int64 on the CPU, 2 * chunk + (0 video, 1 audio); -1 outside chunks."""
    audio = (stream.modality == Modality.AUDIO).long()
    return torch.where(stream.chunk >= 0, 2 * stream.chunk + audio, -1)


def means_by_group(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Compute the mean of ``values`` in each group.

    Args:
        values: [L] float on the CPU.
        group: [L] int64 on the CPU: group of each token, -1 for none.
        groups: number of groups S.

    Returns:
        [S + 1] float64 on the CPU; 0 for an empty group. The last entry is NaN, so that ``-1`` as an index is NaN.
    """
    inside = group >= 0
    size = torch.bincount(group[inside], minlength=groups)
    total = torch.zeros(groups, dtype=torch.float64).index_add_(0, group[inside], values[inside].double())
    return torch.cat([total / size.clamp(min=1), total.new_tensor([torch.nan])])
