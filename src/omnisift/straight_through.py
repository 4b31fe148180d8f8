"""Hard top-k in the forward pass and a straight-through gradient in the backward pass, for ragged segments."""

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


def topk_mask(scores: Tensor, keep: Tensor) -> Tensor:
    """Build the straight-through mask of the paper's section 3.3.

    Only tokens that stay in the graph get a gradient, and it measures the effect of *rescaling* an embedding, to which
    pre-norm decoders hardly respond (docs/methods.md).

    Args:
        scores: float in (0, 1), with a gradient.
        keep: bool of the same shape.

    Returns:
        Exactly 1.0 and 0.0 in the forward pass; the gradient passes to ``scores`` unchanged.
    """
    hard = keep.to(scores.dtype)
    return (hard - scores).detach() + scores
