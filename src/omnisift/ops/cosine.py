"""Cosine similarities inside windows, in bounded memory, rounded so that equal tokens tie."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_ELEMENTS = 1 << 24
"""Elements of the embeddings that are gathered at a time."""

STEPS = float(1 << 20)
"""Similarities are multiples of 1 / STEPS. Smaller differences are noise of float32 sums, which depends on the size of
blocks: without rounding it would decide between equal tokens (black frames, silence), and a batch could differ from
its rows."""


def rounded(values: Tensor) -> Tensor:
    """Round ``values`` to multiples of 1 / STEPS, in place, and return it; NaN and infinite values become 0."""
    return values.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0).mul_(STEPS).round_().div_(STEPS)


def cosine_between(left: Tensor, right: Tensor) -> Tensor:
    """Compute the cosines of two sets of tokens.

    Args:
        left: [G, A, D].
        right: [G, B, D].

    Returns:
        [G, A, B] float32 in [-1, 1]. Zero vectors have cosine 0.
    """
    left, right = (F.normalize(tokens.detach().float(), dim=-1) for tokens in (left, right))
    return rounded(torch.bmm(left, right.mT)).clamp_(-1, 1)


def cosine(embeds: Tensor, index: Tensor) -> Tensor:
    """Compute the cosines of all pairs of tokens of every window.

    Args:
        embeds: [L, D].
        index: [G, N] int64: tokens of each window.

    Returns:
        [G, N, N] float32 in [-1, 1].
    """
    windows, width = index.shape
    step = max(1, MAX_ELEMENTS // max(1, width * embeds.shape[1]))
    similar = torch.empty(windows, width, width, device=embeds.device)
    for begin in range(0, windows, step):
        tokens = embeds[index[begin : begin + step]]
        similar[begin : begin + step] = cosine_between(tokens, tokens)
    return similar
