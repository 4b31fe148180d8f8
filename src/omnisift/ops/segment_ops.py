"""Means, distances and softmax over groups of tokens, a bounded number of embeddings at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from omnisift.ops.frames import MAX_ELEMENTS, row_cosine
from omnisift.ops.merging import add_rows


def blocks(embeds: Tensor, index: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of ``index`` [N] int64 with the embeddings of these tokens, [n, D] float32, of bounded size."""
    step = max(1, MAX_ELEMENTS // max(1, embeds.shape[1]))
    for begin in range(0, len(index), step):
        part = slice(begin, begin + step)
        yield part, embeds[index[part]].float()


def group_means(embeds: Tensor, group: Tensor, groups: int) -> Tensor:
    """Compute the mean token of each group.

    Args:
        embeds: [L, D].
        group: [L] int64 on the CPU: group of each token, -1 for none.
        groups: number of groups S.

    Returns:
        [S, D] float32 on the device; 0 for an empty group.
    """
    index = torch.nonzero(group >= 0, as_tuple=True)[0]
    size = torch.bincount(group[index], minlength=groups).clamp(min=1).to(embeds.device)
    number, index = group[index].to(embeds.device), index.to(embeds.device)
    total = torch.zeros(groups, embeds.shape[1], device=embeds.device)
    for part, tokens in blocks(embeds, index):
        add_rows(total, number[part], tokens)
    return total / size[:, None]


def mean_distance(embeds: Tensor, group: Tensor, groups: int) -> Tensor:
    """Compute one minus the cosine of each token with the mean of its group.

    Args:
        embeds: [L, D].
        group: [L] int64 on the CPU: group of each token, -1 for none.
        groups: number of groups.

    Returns:
        [L] float32 on the device, in [0, 2]; NaN outside groups.
    """
    return 1 - row_cosine(embeds, group_means(embeds, group, groups), group)


def softmax_by(values: Tensor, group: Tensor) -> Tensor:
    """Compute a softmax inside every group.

    Args:
        values: [N] float.
        group: [N] int64 on the CPU: group of each value.

    Returns:
        [N] float64 on the CPU.
    """
    values = values.cpu().double()
    groups = int(group.max()) + 1 if len(group) else 0
    peak = torch.full((groups,), -torch.inf, dtype=torch.float64).scatter_reduce_(0, group, values, reduce="amax")
    power = torch.exp(values - peak[group])
    return power / torch.zeros(groups, dtype=torch.float64).index_add_(0, group, power)[group]
