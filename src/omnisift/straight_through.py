"""Hard top-k in the forward pass, soft gradient in the backward pass, for ragged segments."""

from __future__ import annotations

import torch
from torch import Tensor


def segment_topk(scores: Tensor, segment: Tensor, counts: Tensor) -> Tensor:
    """[N] bool: the ``counts[s]`` highest scores of every segment ``s``; equal scores keep the lowest index.

    ``scores`` [N] float, ``segment`` [N] int64 (any order, each in [0, S)), ``counts`` [S] int64, on one device.
    Two stable sorts rank all segments at once: no loop, no padding, no device sync.
    """
    by_score = torch.sort(scores, descending=True, stable=True).indices
    order = by_score[torch.sort(segment[by_score], stable=True).indices]
    sizes = torch.zeros_like(counts).index_add_(0, segment, torch.ones_like(segment))
    first = torch.cumsum(sizes, dim=0) - sizes
    ordered = segment[order]
    rank = torch.arange(len(order), device=order.device) - first[ordered]
    keep = torch.empty(len(order), dtype=torch.bool, device=order.device)
    keep[order] = rank < counts[ordered]
    return keep


def topk_mask(scores: Tensor, keep: Tensor) -> Tensor:
    """The straight-through mask: exactly 1.0 and 0.0 in the forward, the identity to ``scores`` in the backward.

    Paper section 3.3. Scores in (0, 1). Only tokens that stay in the graph receive a gradient, and it measures the
    effect of *rescaling* an embedding, which pre-norm decoders hardly feel: see the methods page before relying on it.
    """
    hard = keep.to(scores.dtype)
    return (hard - scores).detach() + scores
