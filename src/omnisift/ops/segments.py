"""Sums, means, distances and softmax over groups of tokens, and merging of dropped tokens into kept ones."""

from __future__ import annotations

import torch
from torch import Tensor

from omnisift.ops.similarity import blocks, row_cosine


def add_rows(total: Tensor, index: Tensor, rows: Tensor) -> None:
    """Add rows to a table, in place and always in the same order.

    On a GPU, ``index_add_`` sums in the order in which its threads arrive; accumulating ``index_put_`` sorts first.

    Args:
        total: [R, D], changed in place.
        index: [n] int64: row of ``total`` for each of ``rows``.
        rows: [n, D].
    """
    if total.is_cuda:
        total.index_put_((index,), rows, accumulate=True)
    else:
        total.index_add_(0, index, rows)


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
    size = torch.bincount(group[index], minlength=groups).clamp(min=1).to(embeds.device, non_blocking=True)
    number, index = group[index].to(embeds.device, non_blocking=True), index.to(embeds.device, non_blocking=True)
    total = torch.zeros(groups, embeds.shape[1], device=embeds.device)
    for part in blocks(len(index), embeds.shape[1]):
        add_rows(total, number[part], embeds[index[part]].float())
    return total / size[:, None]


def value_means(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Compute the mean value of each group.

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


def averaged(
    embeds: Tensor, keep: Tensor, into: Tensor, weight: Tensor | None = None, self_weight: float | None = None
) -> Tensor:
    """Merge dropped tokens into kept ones.

    Args:
        embeds: [L, D].
        keep: [L] bool.
        into: [L] int64: index of the kept token that each dropped one joins, -1 for none; ignored on kept tokens.
        weight: [L] float >= 0; None means 1.
        self_weight: if None, a kept token becomes the weighted mean of itself and its members (the dropped tokens that
            join it); else ``self_weight`` times itself plus ``1 - self_weight`` times their weighted mean.

    Returns:
        [K, D] in the dtype of ``embeds``. A kept token without members is unchanged bit for bit.
    """
    # Row of the result, and total weight of the members, for each kept token.
    joined = torch.nonzero(~keep & (into >= 0), as_tuple=True)[0]
    rank = torch.cumsum(keep, dim=0) - 1
    kept = torch.nonzero(keep, as_tuple=True)[0]
    row = rank[into[joined]]
    share = torch.ones(len(embeds), device=embeds.device) if weight is None else weight.float()
    total = torch.zeros(len(kept), device=embeds.device)
    add_rows(total, row, share[joined])
    # Sum the members of those that have any, a bounded number at a time.
    with_members = torch.nonzero(total > 0, as_tuple=True)[0]
    slot = torch.zeros_like(rank[: len(kept)]).index_copy_(
        0, with_members, torch.arange(len(with_members), device=embeds.device)
    )
    mixed = torch.zeros(len(with_members), embeds.shape[1], device=embeds.device)
    for part in blocks(len(joined), embeds.shape[1]):
        tokens, rows = joined[part], row[part]
        weighted = share[tokens] > 0  # a token without weight joins nothing, and may have no slot
        add_rows(mixed, slot[rows[weighted]], embeds[tokens[weighted]].float() * share[tokens[weighted], None])
    # Mix each of them with its members.
    out = embeds.index_select(0, kept)
    total, kept_embeds = total[with_members, None], out[with_members].float()
    if self_weight is None:
        kept_share = share[kept[with_members], None]
        mixed = (mixed + kept_share * kept_embeds) / (total + kept_share)
    else:
        mixed = self_weight * kept_embeds + (1 - self_weight) * mixed / total
    return out.index_copy(0, with_members, mixed.to(embeds.dtype))
