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


def merged(embeds: Tensor, keep: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Merge dropped tokens into kept ones, in one pass over the tokens that are merged.

    Args:
        embeds: [L, D].
        keep: [L] bool.
        target: [L] int64: the kept token that each dropped token joins.
        weight: [L] float32: with which weight a dropped token joins; one whose weight isn't above 0 is not read. A kept
            token has the weight 1.

    Returns:
        [K, D] in the dtype of ``embeds``: the weighted mean of each kept token and of those that join it. A token that
        none joins is unchanged bit for bit.
    """
    own = torch.arange(len(keep), device=keep.device)
    used = torch.nonzero(keep | (weight > 0), as_tuple=True)[0]
    weight = torch.where(keep, 1.0, weight)[used]
    row = (torch.cumsum(keep, dim=0) - 1)[torch.where(keep, own, target)[used]]
    # The tokens of one mean follow each other in the order of the stream, so that a batch equals its rows.
    row, order = torch.sort(row, stable=True)
    used, weight = used[order], weight[order]
    count = int(keep.sum())
    begin = torch.searchsorted(row, torch.arange(count + 1, device=row.device))
    total = F.embedding_bag(torch.arange(len(row), device=row.device), weight[:, None], begin[:-1], mode="sum")
    share = weight / total[row, 0]
    if embeds.dtype is torch.float32:
        # Sums over other layouts of memory are rounded in another way.
        return F.embedding_bag(used, embeds.contiguous(), begin[:-1], mode="sum", per_sample_weights=share)
    # Means are taken in float32, over copies of bounded size.
    out = embeds.new_empty(count, embeds.shape[1])
    bound = begin.cpu()
    for some in blocks(count, embeds.shape[1] * -(-len(used) // max(count, 1))):
        members = slice(int(bound[some.start]), int(bound[min(some.stop, count)]))
        copy, first = embeds[used[members]].float(), begin[:-1][some] - begin[some.start]
        place = torch.arange(len(copy), device=copy.device)
        out[some] = F.embedding_bag(place, copy, first, mode="sum", per_sample_weights=share[members]).to(out.dtype)
    return out
