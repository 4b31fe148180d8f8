"""Merge instead of drop: what a dropped token leaves behind in a kept one."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 1 << 24
"""Numbers of the dropped tokens that are read at a time."""


def add_rows(total: Tensor, index: Tensor, rows: Tensor) -> None:
    """Add ``rows`` [n, D] to ``total[index]``, in place and always in the same order.

    A GPU's index_add_ sums in the order in which its threads come; its accumulating index_put_ sorts first.
    """
    if total.is_cuda:
        total.index_put_((index,), rows, accumulate=True)
    else:
        total.index_add_(0, index, rows)


def averaged(
    embeds: Tensor, keep: Tensor, into: Tensor, weight: Tensor | None = None, own: float | None = None
) -> Tensor:
    """[K, D] in the dtype of ``embeds``: each kept token mixed with the dropped tokens that joined it.

    ``embeds`` [L, D]; ``keep`` [L] bool; ``into`` [L] int64: place of the kept token that a dropped one joins, -1 for
    none (ignored on kept tokens); ``weight`` [L] float >= 0, default 1. Without ``own`` the result is the weighted
    mean of the kept token and all that joined; with it, ``own`` times the kept token plus ``1 - own`` times the
    weighted mean of those that joined. A kept token that nothing joined stays bit for bit.
    """
    joined = torch.nonzero(~keep & (into >= 0), as_tuple=True)[0]
    rank = torch.cumsum(keep, dim=0) - 1
    kept = torch.nonzero(keep, as_tuple=True)[0]
    row = rank[into[joined]]
    share = torch.ones(len(embeds), device=embeds.device) if weight is None else weight.float()
    total = torch.zeros(len(kept), device=embeds.device)
    add_rows(total, row, share[joined])
    touched = torch.nonzero(total > 0, as_tuple=True)[0]
    slot = torch.zeros_like(rank[: len(kept)]).index_copy_(0, touched, torch.arange(len(touched), device=embeds.device))
    mixed = torch.zeros(len(touched), embeds.shape[1], device=embeds.device)
    step = max(1, BLOCK // max(1, embeds.shape[1]))
    for some, rows in zip(torch.split(joined, step), torch.split(row, step), strict=True):
        heavy = share[some] > 0  # a token of no weight joins nothing, and may have no slot
        add_rows(mixed, slot[rows[heavy]], embeds[some[heavy]].float() * share[some[heavy], None])
    out = embeds.index_select(0, kept)
    total, mine = total[touched, None], out[touched].float()
    if own is None:
        first = share[kept[touched], None]
        mixed = (mixed + first * mine) / (total + first)
    else:
        mixed = own * mine + (1 - own) * mixed / total
    return out.index_copy(0, touched, mixed.to(embeds.dtype))
