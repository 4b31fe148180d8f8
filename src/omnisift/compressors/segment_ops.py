"""Means, distances and softmax over groups of tokens, a bounded number of embeddings at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from omnisift.compressors.frames import BLOCK, row_cosine
from omnisift.compressors.merging import add_rows


def strips(embeds: Tensor, places: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Slices of ``places`` [N] int64 (on the device) with the embeddings there, [n, D] float32."""
    step = max(1, BLOCK // max(1, embeds.shape[1]))
    for begin in range(0, len(places), step):
        some = slice(begin, begin + step)
        yield some, embeds[places[some]].float()


def group_means(embeds: Tensor, index: Tensor, groups: int) -> Tensor:
    """[S, D] float32 on the device: mean token of each group; 0 where a group has none.

    ``index`` [L] int64 on the CPU: group of each token, -1 for none; ``groups`` is S.
    """
    places = torch.nonzero(index >= 0, as_tuple=True)[0]
    size = torch.bincount(index[places], minlength=groups).clamp(min=1).to(embeds.device)
    group, places = index[places].to(embeds.device), places.to(embeds.device)
    total = torch.zeros(groups, embeds.shape[1], device=embeds.device)
    for some, tokens in strips(embeds, places):
        add_rows(total, group[some], tokens)
    return total / size[:, None]


def mean_distance(embeds: Tensor, index: Tensor, groups: int) -> Tensor:
    """[L] float32 on the device, in [0, 2]: one minus the cosine of each token with its group's mean; NaN outside."""
    return 1 - row_cosine(embeds, group_means(embeds, index, groups), index)


def softmax_by(values: Tensor, group: Tensor) -> Tensor:
    """[N] float64 on the CPU: softmax of ``values`` [N] inside every group of ``group`` [N] int64 (on the CPU)."""
    values = values.cpu().double()
    groups = int(group.max()) + 1 if len(group) else 0
    peak = torch.full((groups,), -torch.inf, dtype=torch.float64).scatter_reduce_(0, group, values, reduce="amax")
    power = torch.exp(values - peak[group])
    return power / torch.zeros(groups, dtype=torch.float64).index_add_(0, group, power)[group]
