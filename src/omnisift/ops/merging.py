"""Merging: weighted means of kept tokens and the dropped tokens that join them."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_ELEMENTS = 1 << 24
"""Elements of the dropped tokens that are read at a time."""


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
    step = max(1, MAX_ELEMENTS // max(1, embeds.shape[1]))
    for tokens, rows in zip(torch.split(joined, step), torch.split(row, step), strict=True):
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
