"""Coverage of windows: a sketch of the tokens, greedy weighted choice, and the kept token that is most like each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.ops.similarity import blocks

WIDTH = 128
"""Width of a sketch: squared distances are off by about ``sqrt(2 / WIDTH)`` = 12 %."""


def sketch(embeds: Tensor, width: int = WIDTH) -> Tensor:
    """Project tokens to few dimensions, so that their distances are about kept (Johnson and Lindenstrauss 1984).

    Channels get fixed random signs and are folded onto each other, in one pass over memory.

    Args:
        embeds: [L, D].
        width: ``W``.

    Returns:
        [L, W] float32; the tokens themselves where D is at most W.
    """
    embeds = embeds.detach()
    channels = embeds.shape[1]
    if channels <= width:
        return embeds.float()
    folds = -(-channels // width)
    sign = torch.randint(0, 2, (channels,), generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1)
    sign = sign.to(embeds.device, torch.float32)
    result = torch.empty(len(embeds), width, device=embeds.device)
    for part in blocks(len(embeds), 32 * channels):  # small blocks stay in the processor's cache
        signed = F.pad(embeds[part].float() * sign, (0, folds * width - channels))
        torch.sum(signed.view(-1, folds, width), dim=1, out=result[part])
    return result


def cover(likeness: Tensor, valid: Tensor, kept: Tensor, weight: Tensor) -> Tensor:
    """Choose tokens greedily by ``weight_j min(1, min over chosen i of 1 - likeness_ij)``; the heaviest is the first.

    One device sync.

    Args:
        likeness: [G, N, N] float, at most 1.
        valid: [G, N] bool, False on padding.
        kept: [G] int64: tokens chosen in each window, at most its valid ones.
        weight: [G, N] float >= 0.

    Returns:
        [G, N] bool. Of equal values the lowest index is taken.
    """
    row = torch.arange(len(valid), device=valid.device)
    gap = torch.ones_like(weight)  # distance to the nearest chosen token
    taken = ~valid
    for step in range(int(kept.max()) if len(kept) else 0):
        choice = (gap * weight).masked_fill_(taken, -1.0).argmax(dim=1)
        # Windows that have their tokens keep choosing along with the others, without effect.
        taken[row, choice] |= step < kept
        gap = torch.minimum(gap, (1 - likeness[row, choice]).clamp_(min=0))
    return taken & valid


def nearest_kept(alike: Tensor, kept: Tensor, valid: Tensor, fade: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Find the kept token that is most like each token of its window.

    The likeness is the cosine above the usual one, ``(cosine - m) / (1 - m)`` with the mean ``m`` over the window's
    pairs, times ``fade``: tokens that share a direction with all others are not alike for that.

    Args:
        alike: [G, N, N] float: cosines.
        kept: [G, N] bool.
        valid: [G, N] bool, False on padding.
        fade: [G, N, N] float in [0, 1], or None for 1.

    Returns:
        The column of that token, [G, N] int64, and the likeness where it is above 0, else 0, [G, N] float.
    """
    pairs = valid[:, :, None] & valid[:, None, :]
    usual = (alike * pairs).sum(dim=(1, 2), keepdim=True) / pairs.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    likeness = (alike - usual) / (1 - usual).clamp(min=1e-6)
    if fade is not None:
        likeness *= fade
    best, column = likeness.masked_fill(~kept[:, None, :], -torch.inf).max(dim=2)
    return column, best.clamp(min=0)
