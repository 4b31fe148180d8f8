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

_STRIP = 1 << 18
"""Numbers in a strip of `_dots`: one megabyte."""


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
        return F.cosine_similarity(frame0, mean, dim=-1)
    dots = torch.bmm(frame0, mean.transpose(1, 2)).squeeze(-1)
    return dots / ((norms(frame0) if norm0 is None else norm0) * norms(mean))


def temporal_similarity(frame0: Tensor, frame1: Tensor, norm0: Tensor | None = None) -> Tensor:
    """Cosine of every token of the second frame with the one at its place in the whole first frame (paper eq 4).

    ``frame0``, ``frame1`` [C, P, D], ``norm0`` [C, P] the first one's `norms` where known. Returns [C, P].
    """
    if _is_short(frame0):
        return F.cosine_similarity(frame0, frame1, dim=-1)
    return _dots(frame0, frame1) / ((norms(frame0) if norm0 is None else norm0) * norms(frame1))


def saliency(similarity: Tensor) -> Tensor:
    """``1 - similarity``: what the paper calls the score, higher stays; for reports."""
    return 1 - similarity


def norms(x: Tensor) -> Tensor:
    """[..., D] -> [...]: lengths, at least 1e-8."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return norm.clamp_(min=_EPS)


def _dots(a: Tensor, b: Tensor) -> Tensor:
    """[C, P]: products of tokens at the same place of all chunks. On a CPU in strips of places, so that the elementwise
    product stays in its cache and takes no memory to speak of."""
    strip = a.shape[1]
    if a.device.type == "cpu":
        strip = max(1, _STRIP * strip // max(1, a.numel()))
    pairs = zip(torch.split(a, strip, dim=1), torch.split(b, strip, dim=1), strict=True)
    return torch.cat([(x * y).sum(dim=-1) for x, y in pairs], dim=1)


def _is_short(x: Tensor) -> bool:
    """Whether the dtype is shorter than float32: there every rounding step decides ties, so torch's own function is
    used, as in the released code. In float32 it is five times slower than the same formula in fewer passes."""
    return x.dtype in (torch.bfloat16, torch.float16)
