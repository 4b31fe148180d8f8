"""Spatio-temporal video pruning (STVP): similarities that rank the video tokens of a chunk. No parameters.

The lowest similarities are kept. Ranking by ``1 - similarity`` would round away differences that decide the order, so
the subtraction (`saliency`) is for reports only; the released code ranks by similarity too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_EPS = 1e-8
"""Lower bound of a norm, as in torch's cosine_similarity."""

_STRIP = {"cpu": 1 << 18}
"""Elements processed at a time: a megabyte on a CPU, so that it stays in the core's own cache ..."""

_LARGE_STRIP = 1 << 22
"""... and more on other devices, bounded to save memory."""


def spatial_similarity(frame0: Tensor, valid: Tensor | None = None, norm0: Tensor | None = None) -> Tensor:
    """Compute the cosine of every token of the first frame with the mean of its frame (paper eq 2-3).

    Args:
        frame0: [C, P, D] tokens of the first frames.
        valid: [C, P] bool, False on padding; None if nothing is padded.
        norm0: [C, P] `norms` of ``frame0``, if known.

    Returns:
        [C, P]; values of padding are meaningless.
    """
    # eq 2: the mean token of the frame.
    if valid is None:
        mean = frame0.mean(dim=1, keepdim=True)
    else:
        weight = valid.to(frame0.dtype) / valid.sum(dim=1, keepdim=True)
        mean = torch.bmm(weight.unsqueeze(1), frame0)
    # eq 3, without "1 -": cosine with the mean.
    if _is_half_precision(frame0):
        return torch.cat([F.cosine_similarity(x, mean, dim=-1) for x in _strips(frame0)], dim=1)
    dots = torch.bmm(frame0, mean.transpose(1, 2)).squeeze(-1)
    return dots / ((norms(frame0) if norm0 is None else norm0) * norms(mean))


def temporal_similarity(frame0: Tensor, frame1: Tensor, norm0: Tensor | None = None) -> Tensor:
    """Compute the cosine of every token of the second frame with the same place in the first frame (paper eq 4).

    The first frame is the unpruned one.

    Args:
        frame0: [C, P, D] tokens of the first frames.
        frame1: [C, P, D] tokens of the second frames.
        norm0: [C, P] `norms` of ``frame0``, if known.

    Returns:
        [C, P].
    """
    # eq 4, without "1 -".
    pairs = zip(_strips(frame0), _strips(frame1), strict=True)
    if _is_half_precision(frame0):
        return torch.cat([F.cosine_similarity(x, y, dim=-1) for x, y in pairs], dim=1)
    dots = torch.cat([(x * y).sum(dim=-1) for x, y in pairs], dim=1)
    return dots / ((norms(frame0) if norm0 is None else norm0) * norms(frame1))


def saliency(similarity: Tensor) -> Tensor:
    """Return ``1 - similarity``, the paper's score, of which the highest are kept; for reports."""
    return 1 - similarity


def norms(x: Tensor) -> Tensor:
    """Return the norms of ``x`` [..., D] over the last axis, at least 1e-8."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return norm.clamp_(min=_EPS)


def _strips(x: Tensor) -> tuple[Tensor, ...]:
    """Views of ``x`` [C, P, D] along P, of bounded size."""
    elements = _STRIP.get(x.device.type, _LARGE_STRIP)
    return torch.split(x, max(1, elements * x.shape[1] // max(1, x.numel())), dim=1)


def _is_half_precision(x: Tensor) -> bool:
    # There, every rounding step decides ties, so torch's own cosine is used, as in the released code. In float32 it
    # is five times slower than the same formula in fewer passes.
    return x.dtype in (torch.bfloat16, torch.float16)
