"""Spatio-temporal video pruning: which video tokens of a chunk are the visual anchors. No parameters.

Ranked by cosine similarity (low stays), not by ``1 - similarity``: the released code drops the most similar tokens,
and the subtraction would round away differences that decide the order.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_EPS = 1e-8
"""Lower bound of a norm, as in torch's cosine_similarity."""


def spatial_similarity(frame0: Tensor, valid: Tensor | None = None) -> Tensor:
    """Cosine of every token of the first frame with the frame's mean (paper eq 2-3).

    ``frame0`` [C, P, D], ``valid`` [C, P] bool where frames are padded. Returns [C, P]; padding holds nonsense.
    """
    if valid is None:
        mean = frame0.mean(dim=1, keepdim=True)
    else:
        weight = valid.to(frame0.dtype) / valid.sum(dim=1, keepdim=True)
        mean = torch.bmm(weight.unsqueeze(1), frame0)
    if _is_short(frame0):
        return F.cosine_similarity(frame0, mean, dim=-1)
    dots = torch.bmm(frame0, mean.transpose(1, 2)).squeeze(-1)
    return dots / (_norm(frame0) * _norm(mean))


def temporal_similarity(frame0: Tensor, frame1: Tensor) -> Tensor:
    """Cosine of every token of the second frame with the one at its place in the whole first frame (paper eq 4).

    ``frame0``, ``frame1`` [C, P, D]. Returns [C, P].
    """
    if _is_short(frame0):
        return F.cosine_similarity(frame0, frame1, dim=-1)
    return (frame0 * frame1).sum(dim=-1) / (_norm(frame0) * _norm(frame1))


def saliency(similarity: Tensor) -> Tensor:
    """``1 - similarity``: what the paper calls the score, higher stays; for reports."""
    return 1 - similarity


def _norm(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return norm.clamp_(min=_EPS)


def _is_short(x: Tensor) -> bool:
    """Whether the dtype is shorter than float32: there every rounding step decides ties, so torch's own function is
    used, as in the released code. In float32 it is five times slower than the same formula in fewer passes."""
    return x.dtype in (torch.bfloat16, torch.float16)
