"""Contextual anchors: a few evenly spaced tokens that stay for what is dropped around them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.compressors.groups import CELLS, Groups
from omnisift.errors import CompressorError


def checked_share(method: str, share: float) -> float:
    """``share`` if it is one: the part of a window that becomes anchors."""
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
        raise CompressorError(
            f"contextual of {method!r} is the share of tokens that become anchors, in [0, 1), got {share!r}"
        )
    return float(share)


def anchor_count(size: Tensor, kept: Tensor, share: float) -> Tensor:
    """[S] int64 on the CPU: ``round(share * size)`` anchors, at most ``kept - 1``, at least none.

    One token at least is left to be chosen by its own weight. Halves round to even, as Python's ``round``.
    """
    wish = torch.round(size.double() * share).long()
    return torch.minimum(wish, kept - 1).clamp(min=0)


def evenly_among(groups: Groups, free: Tensor, count: Tensor) -> Tensor:
    """[L] bool on the device: of the ``free`` tokens of every group, ``count`` at equal distances.

    ``free`` [L] bool on the device, ``count`` [S] int64 on the CPU. Of m free tokens the j-th anchor is number
    ``ceil(j m / count)``, counted from 0: the first of its share. Where there are not more free tokens than ``count``,
    all.
    """
    device = free.device
    inside = torch.nonzero(groups.index >= 0, as_tuple=True)[0]
    order = inside[torch.sort(groups.index[inside], stable=True).indices]
    number, place = groups.index[order].to(device), order.to(device)
    is_free = free[place]
    total = torch.zeros(len(count), dtype=torch.int64, device=device).index_add_(0, number, is_free.long())
    before = torch.cumsum(total, dim=0) - total
    rank = torch.cumsum(is_free, dim=0) - 1 - before[number]
    wanted = count.to(device)[number]
    found = torch.zeros_like(free)
    found[place] = is_free & (rank * wanted % total[number].clamp(min=1) < wanted)
    return found


def best_match(embeds: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """[R] float32 and [R] int64 on the device: the highest cosine of each row token with any column token, and where
    that one is in the stream.

    ``rows`` [R], ``columns`` [M >= 1] int64 on the device: places in ``embeds`` [L, D]. Zero vectors have cosine 0;
    ties go to the first. Both sides are read a block at a time.
    """
    best = torch.full((len(rows),), -torch.inf, device=embeds.device)
    where = columns[:1].expand(len(rows)).clone()
    # A block of embeddings and the matrix between two blocks both stay within CELLS numbers.
    step = max(1, min(CELLS // max(1, embeds.shape[1]), int(CELLS**0.5)))
    for mine, block in _blocks(rows, step):
        left = F.normalize(embeds[block].float(), dim=-1)
        for _, others in _blocks(columns, step):
            top, at = (left @ F.normalize(embeds[others].float(), dim=-1).T).max(dim=1)
            higher = top > best[mine]
            best[mine] = torch.where(higher, top, best[mine])
            where[mine] = torch.where(higher, others[at], where[mine])
    return best, where


def _blocks(places: Tensor, step: int) -> Iterator[tuple[slice, Tensor]]:
    for begin in range(0, len(places), step):
        yield slice(begin, begin + step), places[begin : begin + step]
