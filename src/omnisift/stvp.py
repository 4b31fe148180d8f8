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

_STRIP = {"cpu": 1 << 18}
"""Numbers that elementwise work takes at a time: a megabyte on a CPU, so that it stays in the core's own cache ..."""

_LARGE_STRIP = 1 << 22
"""... and few but not all on other devices, so that it takes little memory."""


def spatial_similarity(frame0: Tensor, valid: Tensor | None = None, norm0: Tensor | None = None) -> Tensor:
    """Cosine of every token of the first frame with the frame's mean (paper eq 2-3).

    ``frame0`` [C, P, D], ``valid`` [C, P] bool where frames are padded, ``norm0`` [C, P] its `norms` where known.
    Returns [C, P]; padding holds nonsense.
    """
    if valid is None:
        mean = frame0.mean(dim=1, keepdim=True)
    else:
        weight = valid.to(frame0.dtype) / valid.sum(dim=1, keepdim=True)
        mean = torch.bmm(weight.unsqueeze(1), frame0)
    if _is_short(frame0):
        return torch.cat([F.cosine_similarity(x, mean, dim=-1) for x in _strips(frame0)], dim=1)
    dots = torch.bmm(frame0, mean.transpose(1, 2)).squeeze(-1)
    return dots / ((norms(frame0) if norm0 is None else norm0) * norms(mean))


def temporal_similarity(frame0: Tensor, frame1: Tensor, norm0: Tensor | None = None) -> Tensor:
    """Cosine of every token of the second frame with the one at its place in the whole first frame (paper eq 4).

    ``frame0``, ``frame1`` [C, P, D], ``norm0`` [C, P] the first one's `norms` where known. Returns [C, P].
    """
    pairs = zip(_strips(frame0), _strips(frame1), strict=True)
    if _is_short(frame0):
        return torch.cat([F.cosine_similarity(x, y, dim=-1) for x, y in pairs], dim=1)
    dots = torch.cat([(x * y).sum(dim=-1) for x, y in pairs], dim=1)
    return dots / ((norms(frame0) if norm0 is None else norm0) * norms(frame1))


def saliency(similarity: Tensor) -> Tensor:
    """``1 - similarity``: what the paper calls the score, higher stays; for reports."""
    return 1 - similarity


def norms(x: Tensor) -> Tensor:
    """[..., D] -> [...]: lengths, at least 1e-8."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return norm.clamp_(min=_EPS)


def _strips(x: Tensor) -> tuple[Tensor, ...]:
    """Views of [C, P, D], each some places of all chunks."""
    numbers = _STRIP.get(x.device.type, _LARGE_STRIP)
    return torch.split(x, max(1, numbers * x.shape[1] // max(1, x.numel())), dim=1)


def _is_short(x: Tensor) -> bool:
    """Whether the dtype is shorter than float32: there every rounding step decides ties, so torch's own function is
    used, as in the released code. In float32 it is five times slower than the same formula in fewer passes."""
    return x.dtype in (torch.bfloat16, torch.float16)
