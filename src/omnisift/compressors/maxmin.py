"""Max-min diversity in many windows at once: each next token is the one farthest from all that were kept."""

from __future__ import annotations

import torch
from torch import Tensor

from omnisift.compressors.cosine import cosine
from omnisift.compressors.groups import Groups


def max_min(distance: Tensor, valid: Tensor, kept: Tensor, weight: Tensor | None = None) -> Tensor:
    """[G, N] bool: ``kept`` tokens of every window, chosen greedily (DivPrune, arXiv 2503.02175; Gonzalez 1985).

    ``distance`` [G, N, N] float >= 0, finite and symmetric (diagonal and padding are not read); ``valid`` [G, N] bool;
    ``kept`` [G] int64, at most the window's valid tokens. First the token farthest from its nearest other token, then
    again and again the token farthest from its nearest kept one. ``weight`` [G, N] float >= 0 makes it
    ``d'_ij = d_ij weight_j``, j the candidate (SEATS, arXiv 2605.20035). Ties take the lowest index. One device sync.
    """
    value = _nearest(distance, valid)
    far = torch.finfo(distance.dtype).max
    gap = torch.full_like(value, far)  # to the nearest kept token
    taken = ~valid
    row = torch.arange(len(valid), device=valid.device)
    for step in range(int(kept.max()) if len(kept) else 0):
        if weight is not None:
            value = value * weight
        pick = value.masked_fill(taken, -torch.inf).argmax(dim=1)
        # A window that has its tokens goes on picking beside the others, without effect.
        taken[row, pick] |= step < kept
        gap = torch.minimum(gap, distance[row, pick])
        value = gap
    return taken & valid


def diverse(embeds: Tensor, groups: Groups, weight: Tensor | None = None) -> Tensor:
    """[L] bool on the device: `max_min` on ``1 - cos`` in every group, all tokens outside kept.

    ``embeds`` [L, D]; ``weight`` [L] float >= 0 on the device. NaN weights count as 0.
    """
    keep = torch.ones(len(embeds), dtype=torch.bool, device=embeds.device)
    for window in groups.windows(embeds.device):
        share = None if weight is None else torch.nan_to_num(weight.detach()[window.place].float(), posinf=0.0)
        distance = cosine(embeds, window.place).neg_().add_(1)
        chosen = max_min(distance, window.valid, window.kept, share)
        keep[window.place[window.valid]] = chosen[window.valid]
    return keep


def _nearest(distance: Tensor, valid: Tensor) -> Tensor:
    """[G, N]: the distance to the nearest other token; the largest number, not infinity, where there is none, so that
    a weight of 0 gives 0."""
    width = valid.shape[1]
    oneself = torch.eye(width, dtype=torch.bool, device=valid.device)
    return distance.masked_fill(oneself | ~valid.unsqueeze(1), torch.finfo(distance.dtype).max).amin(dim=-1)
