"""Greedy max-min diversity in many windows at once: each next token is the farthest from all chosen ones."""

from __future__ import annotations

import torch
from torch import Tensor

from omnisift.ops.cosine import cosine
from omnisift.ops.groups import Groups


def max_min(distance: Tensor, valid: Tensor, kept: Tensor, weight: Tensor | None = None) -> Tensor:
    """Choose tokens greedily by max-min distance (DivPrune, arXiv 2503.02175; Gonzalez 1985).

    The first token is the one farthest from its nearest other token, each further one the token farthest from its
    nearest chosen token. One device sync.

    Args:
        distance: [G, N, N] float >= 0, finite and symmetric; its diagonal and padding are not read.
        valid: [G, N] bool, False on padding.
        kept: [G] int64, tokens chosen in each window, at most its valid ones.
        weight: [G, N] float >= 0 of candidates: ``d'_ij = d_ij weight_j`` (SEATS, arXiv 2605.20035); None means 1.

    Returns:
        [G, N] bool. Of equal distances the lowest index is taken.
    """
    value = _nearest(distance, valid)
    largest = torch.finfo(distance.dtype).max
    gap = torch.full_like(value, largest)  # distance to the nearest chosen token
    taken = ~valid
    row = torch.arange(len(valid), device=valid.device)
    for step in range(int(kept.max()) if len(kept) else 0):
        # The candidate with the largest weighted gap.
        if weight is not None:
            value = value * weight
        choice = value.masked_fill(taken, -torch.inf).argmax(dim=1)
        # Windows that have their tokens keep choosing along with the others, without effect.
        taken[row, choice] |= step < kept
        gap = torch.minimum(gap, distance[row, choice])
        value = gap
    return taken & valid


def diverse(embeds: Tensor, groups: Groups, weight: Tensor | None = None) -> Tensor:
    """Choose tokens by `max_min` on ``1 - cos`` in every group.

    Args:
        embeds: [L, D].
        groups: the windows and their counts.
        weight: [L] float >= 0 on the device; NaN counts as 0. None means 1.

    Returns:
        [L] bool on the device; True for all tokens outside groups.
    """
    keep = torch.ones(len(embeds), dtype=torch.bool, device=embeds.device)
    for window in groups.windows(embeds.device):
        factor = None if weight is None else torch.nan_to_num(weight.detach()[window.index].float(), posinf=0.0)
        distance = cosine(embeds, window.index).neg_().add_(1)
        chosen = max_min(distance, window.valid, window.kept, factor)
        keep[window.index[window.valid]] = chosen[window.valid]
    return keep


def _nearest(distance: Tensor, valid: Tensor) -> Tensor:
    """Distance to the nearest other token, [G, N]; finite where there is none, so that a weight of 0 gives 0."""
    width = valid.shape[1]
    diagonal = torch.eye(width, dtype=torch.bool, device=valid.device)
    return distance.masked_fill(diagonal | ~valid.unsqueeze(1), torch.finfo(distance.dtype).max).amin(dim=-1)
