"""Density peaks (DPC-kNN) in many windows at once: good centres are dense and far from any denser token.

Rodriguez and Laio (Science 2014) with the kNN density of Du et al. (2016), the form that OmniZip, FastVID, HoliTom and
OmniPack share. A token's rank as a centre is `density` times `separation`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def density(distance: Tensor, valid: Tensor, k: int, squared: bool = False) -> Tensor:
    """Compute the local density, ``exp(-mean of the k smallest distances to other tokens)``.

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
