"""Density peaks (DPC-kNN) in many windows at once: tokens in a crowd, far from any denser crowd, make good centres.

Rodriguez and Laio (Science 2014) with the kNN density of Du et al. (2016), the form that OmniZip, FastVID, HoliTom and
OmniPack share. Pure functions on a rectangle of windows with padding (`omnisift.compressors.groups.Window`)::

    density(distance [G, N, N], valid [G, N], k, squared=False) -> [G, N]
    separation(distance, density, valid) -> [G, N]

A token's rank as a centre is the product of the two.
"""

from __future__ import annotations

import torch
from torch import Tensor


def density(distance: Tensor, valid: Tensor, k: int, squared: bool = False) -> Tensor:
    """[G, N] float in (0, 1]: ``exp(-mean of the k smallest distances to other tokens)``; 0 on padding.

    ``distance`` [G, N, N] float >= 0 (its diagonal and padding are not read), ``valid`` [G, N] bool. ``squared`` takes
    the mean of squared distances. A window of fewer than k + 1 tokens uses all others; a token alone has density 1.
    """
    width = valid.shape[1]
    k = max(0, min(k, width - 1))
    near = _others(distance, valid, torch.inf).topk(k, dim=-1, largest=False).values  # [G, N, k], smallest first
    found = near.isfinite()
    near = torch.where(found, near.square() if squared else near, 0.0)
    mean = near.sum(dim=-1) / found.sum(dim=-1).clamp(min=1)
    return torch.where(valid, torch.exp(-mean), 0.0)


def separation(distance: Tensor, density: Tensor, valid: Tensor) -> Tensor:
    """[G, N] float: distance to the nearest denser token; for the peak, to the farthest token. 0 on padding.

    Shapes as in `density`. Of equal densities the lower index counts as the denser, so every window has one peak; a
    token alone in its window is 0 apart.
    """
    width = valid.shape[1]
    index = torch.arange(width, device=valid.device)
    # [G, N, N]: whether j (last) is denser than i.
    denser = density.unsqueeze(1) > density.unsqueeze(2)
    denser |= (density.unsqueeze(1) == density.unsqueeze(2)) & (index < index.unsqueeze(1))
    denser &= valid.unsqueeze(1)
    nearest = distance.masked_fill(~denser, torch.inf).amin(dim=-1)
    farthest = _others(distance, valid, 0.0).amax(dim=-1)
    return torch.where(valid, torch.where(denser.any(dim=-1), nearest, farthest), 0.0)


def _others(distance: Tensor, valid: Tensor, fill: float) -> Tensor:
    """[G, N, N]: the distances with ``fill`` to padding and to oneself."""
    oneself = torch.eye(valid.shape[1], dtype=torch.bool, device=valid.device)
    return distance.masked_fill(oneself | ~valid.unsqueeze(1), fill)
