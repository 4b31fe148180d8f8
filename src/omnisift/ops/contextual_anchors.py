"""Contextual anchors: a few evenly spaced tokens that represent the dropped tokens around them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.errors import CompressorError
from omnisift.ops.groups import MAX_ELEMENTS, Groups


def check_share(method: str, share: float) -> float:
    """Return ``share`` as a float.

    Args:
        method: name of the method, for the message.
        share: its option ``contextual``, the fraction of a window that becomes anchors.

    Raises:
        CompressorError: the share is not a number in [0, 1).
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
        raise CompressorError(
            f"contextual of {method!r} is the share of tokens that become anchors, in [0, 1), got {share!r}"
        )
    return float(share)


def anchor_count(size: Tensor, kept: Tensor, share: float) -> Tensor:
    """Return the number of anchors of each window.

    Args:
        size: [S] int64 on the CPU: tokens of each window.
        kept: [S] int64 on the CPU: kept tokens of each window.
        share: fraction of the window.

    Returns:
        [S] int64 on the CPU: ``round(share * size)`` (halves to even, as in Python), at most ``kept - 1`` so that one
        token is left to be chosen by its weight, and at least 0.
    """
    rounded = torch.round(size.double() * share).long()
    return torch.minimum(rounded, kept - 1).clamp(min=0)


def evenly_among(groups: Groups, free: Tensor, count: Tensor) -> Tensor:
    """Select evenly spaced tokens among the free ones of each group.

    Of m free tokens, the j-th anchor is number ``ceil(j m / count)``, counted from 0: the first of its share.

    Args:
        groups: the groups.
        free: [L] bool on the device: tokens that may become anchors.
        count: [S] int64 on the CPU: anchors of each group.

    Returns:
        [L] bool on the device; all free tokens of a group that has at most ``count``.
    """
    device = free.device
    inside = torch.nonzero(groups.group >= 0, as_tuple=True)[0]
    order = inside[torch.sort(groups.group[inside], stable=True).indices]
    group, index = groups.group[order].to(device), order.to(device)
    # Rank of each free token among those of its group.
    is_free = free[index]
    total = torch.zeros(len(count), dtype=torch.int64, device=device).index_add_(0, group, is_free.long())
    before = torch.cumsum(total, dim=0) - total
    rank = torch.cumsum(is_free, dim=0) - 1 - before[group]
    # A token opens a share where rank * count passes a multiple of m.
    target = count.to(device)[group]
    anchors = torch.zeros_like(free)
    anchors[index] = is_free & (rank * target % total[group].clamp(min=1) < target)
    return anchors


def best_match(embeds: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Find for each row token the column token with the highest cosine, block by block.

    Args:
        embeds: [L, D].
        rows: [R] int64 on the device: indices in ``embeds``.
        columns: [M] int64 on the device, M >= 1: indices in ``embeds``.

    Returns:
        The highest cosine, [R] float32, and the index of that column token in the stream, [R] int64. Zero vectors have
        cosine 0; of equal cosines the first column counts.
    """
    best = torch.full((len(rows),), -torch.inf, device=embeds.device)
    match = columns[:1].expand(len(rows)).clone()
    # A block of embeddings and the matrix between two blocks both stay within MAX_ELEMENTS.
    step = max(1, min(MAX_ELEMENTS // max(1, embeds.shape[1]), int(MAX_ELEMENTS**0.5)))
    for part, row_block in _blocks(rows, step):
        left = F.normalize(embeds[row_block].float(), dim=-1)
        for _, column_block in _blocks(columns, step):
            cosine, column = (left @ F.normalize(embeds[column_block].float(), dim=-1).T).max(dim=1)
            higher = cosine > best[part]
            best[part] = torch.where(higher, cosine, best[part])
            match[part] = torch.where(higher, column_block[column], match[part])
    return best, match


def _blocks(indices: Tensor, step: int) -> Iterator[tuple[slice, Tensor]]:
    for begin in range(0, len(indices), step):
        yield slice(begin, begin + step), indices[begin : begin + step]
