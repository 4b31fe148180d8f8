"""Top-k of ragged segments, and of the rows of a padded matrix."""

from __future__ import annotations

import torch
from torch import Tensor


def segment_topk(scores: Tensor, segment: Tensor, counts: Tensor) -> Tensor:
    """Select the highest scores of every segment, without a loop, padding or device sync.

    Args:
        scores: [N] float.
        segment: [N] int64 in [0, S), in any order.
        counts: [S] int64: tokens selected in each segment.

    Returns:
        [N] bool: the ``counts[s]`` highest scores of every segment ``s``; of equal scores the lowest index.
    """
    # Two stable sorts: by score, then by segment, which keeps the order of scores inside each segment.
    by_score = torch.sort(scores, descending=True, stable=True).indices
    order = by_score[torch.sort(segment[by_score], stable=True).indices]
    # Rank of each token in its segment.
    sizes = torch.zeros_like(counts).index_add_(0, segment, torch.ones_like(segment))
    first = torch.cumsum(sizes, dim=0) - sizes
    ordered = segment[order]
    rank = torch.arange(len(order), device=order.device) - first[ordered]
    keep = torch.empty(len(order), dtype=torch.bool, device=order.device)
    keep[order] = rank < counts[ordered]
    return keep


def row_topk(scores: Tensor, count: Tensor, valid: Tensor | None = None) -> Tensor:
    """Select the highest scores of every row.

    Args:
        scores: [G, N] float.
        count: [G] int64: entries selected in each row.
        valid: [G, N] bool: the entries that count; None means all.

    Returns:
        [G, N] bool; of equal scores the lowest index.
    """
    masked = scores if valid is None else scores.masked_fill(~valid, -torch.inf)
    order = torch.argsort(masked, dim=1, descending=True, stable=True)
    chosen = torch.argsort(order, dim=1) < count.unsqueeze(1)
    return chosen if valid is None else chosen & valid
