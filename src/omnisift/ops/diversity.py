"""Diversity in many windows at once: greedy max-min distance, and density peaks (DPC-kNN)."""

from __future__ import annotations

import torch
from torch import Tensor

from omnisift.ops.groups import Groups
from omnisift.ops.similarity import cosine


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
    # Distance to the nearest other token; finite where there is none, so that a weight of 0 gives 0.
    largest = torch.finfo(distance.dtype).max
    value = _others(distance, valid, largest).amin(dim=-1)
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


def density(distance: Tensor, valid: Tensor, k: int, squared: bool = False) -> Tensor:
    """Compute the local density, ``exp(-mean of the k smallest distances to other tokens)``.

    Good centres are dense and far from any denser token: a token's rank as a centre is `density` times `separation`
    (Rodriguez and Laio, Science 2014, with the kNN density of Du et al., 2016, as OmniZip, FastVID, HoliTom and
    OmniPack use it).

    Args:
        distance: [G, N, N] float >= 0; its diagonal and padding are not read.
        valid: [G, N] bool, False on padding.
        k: neighbours; a window with fewer other tokens uses all of them.
        squared: whether the distances are squared first.

    Returns:
        [G, N] float in (0, 1]; 1 for a token alone in its window, 0 on padding.
    """
    width = valid.shape[1]
    k = max(0, min(k, width - 1))
    nearest = _others(distance, valid, torch.inf).topk(k, dim=-1, largest=False).values  # [G, N, k], smallest first
    exists = nearest.isfinite()
    nearest = torch.where(exists, nearest.square() if squared else nearest, 0.0)
    mean = nearest.sum(dim=-1) / exists.sum(dim=-1).clamp(min=1)
    return torch.where(valid, torch.exp(-mean), 0.0)


def separation(distance: Tensor, density: Tensor, valid: Tensor) -> Tensor:
    """Compute the distance to the nearest denser token; for the densest one, to the farthest token.

    Args:
        distance: [G, N, N] float >= 0; its diagonal and padding are not read.
        density: [G, N] float. Of equal densities the lower index counts as the denser, so each window has one peak.
        valid: [G, N] bool, False on padding.

    Returns:
        [G, N] float; 0 on padding and for a token alone in its window.
    """
    width = valid.shape[1]
    index = torch.arange(width, device=valid.device)
    # [G, N, N]: whether j (last axis) is denser than i.
    denser = density.unsqueeze(1) > density.unsqueeze(2)
    denser |= (density.unsqueeze(1) == density.unsqueeze(2)) & (index < index.unsqueeze(1))
    denser &= valid.unsqueeze(1)
    nearest = distance.masked_fill(~denser, torch.inf).amin(dim=-1)
    farthest = _others(distance, valid, 0.0).amax(dim=-1)
    return torch.where(valid, torch.where(denser.any(dim=-1), nearest, farthest), 0.0)


def _others(distance: Tensor, valid: Tensor, fill: float) -> Tensor:
    """The distances [G, N, N] with ``fill`` on the diagonal and to padding."""
    diagonal = torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
    return distance.masked_fill(diagonal | ~valid.unsqueeze(1), fill)
