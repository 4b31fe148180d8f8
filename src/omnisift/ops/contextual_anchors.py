"""Contextual anchors: a few evenly spaced tokens that represent the dropped tokens around them."""

from __future__ import annotations

import torch
from torch import Tensor

from omnisift.ops.groups import Groups


def anchor_count(size: Tensor, kept: Tensor, share: float) -> Tensor:
    """Return the number of anchors of each window.

    Args:
        size: [S] int64 on the CPU: tokens of each window.
        kept: [S] int64 on the CPU: kept tokens of each window.
        share: fraction of the window.

    Returns:
        [S] int64 on the CPU: ``round(share * size)`` (halves to even, as in Python), at most ``kept - 1`` so that one
        token is left to be chosen by its weight, and at least 0.
    """
    rounded = torch.round(size.double() * share).long()
    return torch.minimum(rounded, kept - 1).clamp(min=0)


def evenly_among(groups: Groups, free: Tensor, count: Tensor) -> Tensor:
    """Select evenly spaced tokens among the free ones of each group.

    Of m free tokens, the j-th anchor is number ``ceil(j m / count)``, counted from 0: the first of its share.

    Args:
        groups: the groups.
        free: [L] bool on the device: tokens that may become anchors.
        count: [S] int64 on the CPU: anchors of each group.

    Returns:
        [L] bool on the device; all free tokens of a group that has at most ``count``.
    """
    device = free.device
    inside = torch.nonzero(groups.group >= 0, as_tuple=True)[0]
    order = inside[torch.sort(groups.group[inside], stable=True).indices]
    group, index = groups.group[order].to(device, non_blocking=True), order.to(device, non_blocking=True)
    # Rank of each free token among those of its group.
    is_free = free[index]
    total = torch.zeros(len(count), dtype=torch.int64, device=device).index_add_(0, group, is_free.long())
    before = torch.cumsum(total, dim=0) - total
    rank = torch.cumsum(is_free, dim=0) - 1 - before[group]
    # A token opens a share where rank * count passes a multiple of m.
    target = count.to(device, non_blocking=True)[group]
    anchors = torch.zeros_like(free)
    anchors[index] = is_free & (rank * target % total[group].clamp(min=1) < target)
    return anchors
