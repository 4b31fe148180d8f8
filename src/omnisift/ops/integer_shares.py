"""Integer shares of a total: how methods with a content-dependent budget divide it among frames."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from omnisift.budget import Counts
from omnisift.chunks import ChunkShapes


def allocate(weight: Tensor, size: Tensor, total: int, minimum: int = 0) -> Tensor:
    """Divide a total by weight, with the largest-remainder method.

    Args:
        weight: [F] float >= 0 on the CPU; where all are 0, the sizes are the weights.
        size: [F] int64 on the CPU: upper bound of each share.
        total: the sum of the shares, at most the sum of ``size``.
        minimum: lower bound of each share (or its size); dropped if the total does not suffice for all.

    Returns:
        [F] int64 on the CPU. Of equal remainders the first is rounded up.
    """
    size = size.to(torch.int64)
    floor = size.clamp(max=minimum)
    if int(floor.sum()) > total:
        floor = torch.zeros_like(size)
    weight = torch.nan_to_num(weight.double(), nan=0.0, posinf=0.0).clamp(0, 1e290)  # so that sums stay finite
    share = floor.double()
    free = size > floor
    # Water-filling: entries whose share exceeds their size get their size, and the others divide what is left.
    while bool(free.any()):
        rest = total - float(share[~free].sum()) - float(floor[free].sum())
        free_weight = torch.where(free, weight, 0.0)
        if float(free_weight.sum()) <= 0:
            free_weight = torch.where(free, size.double(), 0.0)
        proposed = floor + rest * free_weight / free_weight.sum()
        full = free & (proposed >= size)
        share = torch.where(free, torch.where(full, size.double(), proposed), share)
        if not bool(full.any()):
            break
        free &= ~full
    # Largest remainder. Rounded, or noise of the last bits would decide between equal remainders.
    result = torch.minimum((share + 1e-9).long(), size)
    missing = total - int(result.sum())
    remainder = torch.where(result < size, (share - result).round(decimals=9), -1.0)
    result[torch.argsort(remainder, descending=True, stable=True)[:missing]] += 1
    return result


def per_frame(counts: Counts, shapes: ChunkShapes, weight: Tensor, minimum: int = 0) -> Counts:
    """Divide each clip's video total over its frames.

    Args:
        counts: kept tokens of every chunk, for the totals.
        shapes: token counts of the chunks.
        weight: [C, 2] float >= 0 on the CPU, of both frames of each chunk.
        minimum: lower bound of each frame's count, as in `allocate`.

    Returns:
        ``counts`` with other numbers for the frames.
    """
    size = torch.stack([shapes.frame0, shapes.frame1], dim=1)
    kept = torch.stack([counts.frame0, counts.frame1], dim=1)
    result = torch.zeros_like(kept)
    for clip in torch.unique(shapes.clip).tolist():
        in_clip = shapes.clip == clip
        total = int(kept[in_clip].sum())
        result[in_clip] = allocate(weight[in_clip].flatten(), size[in_clip].flatten(), total, minimum).view(-1, 2)
    return replace(counts, frame0=result[:, 0], frame1=result[:, 1])
