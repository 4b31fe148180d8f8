"""Cosine similarities inside windows, in bounded memory, rounded so that equal tokens tie."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 1 << 24
"""Numbers of the embeddings that are gathered at a time."""

STEPS = float(1 << 20)
"""Similarities are multiples of 1 / STEPS. What is below is noise of float32 sums, which differs between block sizes:
without rounding it would decide between equal tokens (black frames, silence), and a batch could differ from its rows.
"""


def rounded(values: Tensor) -> Tensor:
    """``values``, a new tensor, to the nearest multiple of 1 / STEPS; NaN and infinite count as 0. In place."""
    return values.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0).mul_(STEPS).round_().div_(STEPS)


def cosine_between(left: Tensor, right: Tensor) -> Tensor:
    """[G, A, B] float32 in [-1, 1]: of ``left`` [G, A, D] with ``right`` [G, B, D]. Zero vectors have cosine 0."""
    left, right = (F.normalize(part.detach().float(), dim=-1) for part in (left, right))
    return rounded(torch.bmm(left, right.mT)).clamp_(-1, 1)


def cosine(embeds: Tensor, place: Tensor) -> Tensor:
    """[G, N, N] float32 in [-1, 1]: of all pairs of every window; ``embeds`` [L, D], ``place`` [G, N] int64."""
    windows, width = place.shape
    step = max(1, BLOCK // max(1, width * embeds.shape[1]))
    found = torch.empty(windows, width, width, device=embeds.device)
    for begin in range(0, windows, step):
        tokens = embeds[place[begin : begin + step]]
        found[begin : begin + step] = cosine_between(tokens, tokens)
    return found
