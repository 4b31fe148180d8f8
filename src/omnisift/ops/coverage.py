"""Coverage of windows: a sketch of the tokens, greedy weighted choice, and the kept token that is most like each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.ops.groups import Window
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
    sign = sign.float().to(embeds.device, non_blocking=True)
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
    # Cosines are multiples of a power of two, so that their sum in float64 is exact, whatever the batch.
    total = (alike * pairs).sum(dim=(1, 2), keepdim=True, dtype=torch.float64)
    usual = total / pairs.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    likeness = ((alike - usual) / (1 - usual).clamp(min=1e-6)).to(alike.dtype)
    if fade is not None:
        likeness *= fade
    best, column = likeness.masked_fill(~kept[:, None, :], -torch.inf).max(dim=2)
    return column, best.clamp(min=0)


@dataclass(frozen=True)
class Joined:
    """Which tokens of some windows were kept, and what the others join."""

    window: Window
    kept: Tensor
    """[G, N] bool."""
    column: Tensor
    """[G, N] int64: the kept token that each other one joins."""
    weight: Tensor
    """[G, N] float >= 0: with which weight; a kept token has 1."""


def merged(embeds: Tensor, keep: Tensor, parts: Sequence[Joined]) -> Tensor:
    """Merge dropped tokens into kept ones, by one matrix product for each window.

    Args:
        embeds: [L, D], finite.
        keep: [L] bool.
        parts: the windows.

    Returns:
        [K, D] in the dtype of ``embeds``: the weighted mean of each kept token and of those that join it. A token that
        none joins is unchanged bit for bit.
    """
    rank = torch.cumsum(keep, dim=0) - 1
    in_window = torch.zeros_like(keep)
    for part in parts:
        in_window[part.window.index[part.kept]] = True
    others = torch.nonzero(keep & ~in_window, as_tuple=True)[0]
    out = embeds.new_empty(int(keep.sum()), embeds.shape[1])
    out[rank[others]] = embeds[others]
    for part in parts:
        # Row of the result, within its window, that each token goes to.
        slot = torch.cumsum(part.kept, dim=1) - 1
        row = torch.where(part.kept, slot, slot.gather(1, part.column)).clamp(min=0)
        weight = torch.where(part.kept, 1.0, part.weight)
        # Windows of equal sizes and counts make one product without padding, so that a batch equals its rows.
        sizes = torch.stack([part.window.valid.sum(dim=1), part.kept.sum(dim=1)], dim=1).cpu()
        for size, count in sorted(set(map(tuple, sizes.tolist()))):
            same = torch.nonzero((sizes == torch.tensor([size, count])).all(dim=1))[:, 0]
            for some in blocks(len(same), size * embeds.shape[1]) if count else ():
                window = same[some].to(embeds.device, non_blocking=True)
                index = part.window.index[window, :size]
                share = weight.new_zeros(len(index), count, size)
                share.scatter_(1, row[window, None, :size], weight[window, None, :size])
                share /= share.sum(dim=2, keepdim=True)
                means = torch.bmm(share, embeds[index].float())
                out[rank[index[part.kept[window, :size]]]] = means.flatten(0, 1).to(out.dtype)
    return out
