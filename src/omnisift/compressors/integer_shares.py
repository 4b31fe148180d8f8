"""Integer shares of a total: how methods with a dynamic budget give each frame its number."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from omnisift.budget import Counts
from omnisift.chunks import ChunkShapes


def allocate(weight: Tensor, size: Tensor, total: int, least: int = 0) -> Tensor:
    """[F] int64 on the CPU: ``total`` split by ``weight``, by largest remainder, at most ``size`` each.

    ``weight`` [F] float >= 0 and ``size`` [F] int64, on the CPU; where all weights are 0, size is the weight. Every
    entry gets at least ``least`` (or its size, or nothing where the total does not suffice for all). Ties go to the
    first. ``total`` must not exceed the sum of sizes.
    """
    size = size.to(torch.int64)
    floor = size.clamp(max=least)
    if int(floor.sum()) > total:
        floor = torch.zeros_like(size)
    weight = torch.nan_to_num(weight.double(), nan=0.0, posinf=0.0).clamp(0, 1e290)  # so that sums stay finite
    share = floor.double()
    free = size > floor
    # Water-filling: whoever would get more than its size gets its size, and the others share what is left.
    while bool(free.any()):
        rest = total - float(share[~free].sum()) - float(floor[free].sum())
        pull = torch.where(free, weight, 0.0)
        if float(pull.sum()) <= 0:
            pull = torch.where(free, size.double(), 0.0)
        wish = floor + rest * pull / pull.sum()
        full = free & (wish >= size)
        share = torch.where(free, torch.where(full, size.double(), wish), share)
        if not bool(full.any()):
            break
        free &= ~full
    found = torch.minimum((share + 1e-9).long(), size)
    missing = total - int(found.sum())
    # Rounded, or noise of the last bits would decide between remainders that are equal.
    remainder = torch.where(found < size, (share - found).round(decimals=9), -1.0)
    found[torch.argsort(remainder, descending=True, stable=True)[:missing]] += 1
    return found


def per_frame(counts: Counts, shapes: ChunkShapes, weight: Tensor, least: int = 0) -> Counts:
    """``counts`` with each clip's video total split over its frames by ``weight`` [C, 2] (CPU)."""
    size = torch.stack([shapes.frame0, shapes.frame1], dim=1)
    kept = torch.stack([counts.frame0, counts.frame1], dim=1)
    found = torch.zeros_like(kept)
    for clip in torch.unique(shapes.clip).tolist():
        here = shapes.clip == clip
        total = int(kept[here].sum())
        found[here] = allocate(weight[here].flatten(), size[here].flatten(), total, least).view(-1, 2)
    return replace(counts, frame0=found[:, 0], frame1=found[:, 1])
