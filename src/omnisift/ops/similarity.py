"""Cosine similarities in bounded memory: of rows, of pairs inside windows, and to the best match."""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_ELEMENTS = 1 << 24
"""Elements of embeddings, or of a batch of matrices, that are processed at a time: 64 MiB in float32."""

STEPS = float(1 << 20)
"""Similarities are multiples of 1 / STEPS. Smaller differences are noise of float32 sums, which depends on the size of
blocks: without rounding it would decide between equal tokens (black frames, silence), and a batch could differ from
its rows."""


def blocks(count: int, width: int) -> Iterator[slice]:
    """Yield slices that cover ``count`` rows of ``width`` elements; a slice has at most `MAX_ELEMENTS`, or one row."""
    step = max(1, MAX_ELEMENTS // max(1, width))
    for begin in range(0, count, step):
        yield slice(begin, begin + step)


def pair_cosine(embeds: Tensor, other: Tensor, default: float = torch.nan) -> Tensor:
    """Compute the cosine of each token with another one.

    Args:
        embeds: [L, D].
        other: [L] int64: index of the other token, -1 for none.
        default: the value where there is none.

    Returns:
        [L] float32 on the device. Zero vectors have cosine 0.
    """
    return row_cosine(embeds, embeds, other, default)


def row_cosine(embeds: Tensor, rows: Tensor, row: Tensor, default: float = torch.nan) -> Tensor:
    """Compute the cosine of each token with a row of a table.

    Args:
        embeds: [L, D].
        rows: [R, D].
        row: [L] int64: row of each token, -1 for none.
        default: the value where there is none.

    Returns:
        [L] float32 on the device. Zero vectors have cosine 0.
    """
    result = torch.full((len(embeds),), float(default), device=embeds.device)
    token = torch.nonzero(row >= 0, as_tuple=True)[0]
    left, right = token.to(embeds.device, non_blocking=True), row[token].to(embeds.device, non_blocking=True)
    for part in blocks(len(left), embeds.shape[1]):
        result[left[part]] = F.cosine_similarity(embeds[left[part]].float(), rows[right[part]].float(), dim=-1)
    return result


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
    similar = torch.empty(windows, width, width, device=embeds.device)
    for part in blocks(windows, width * embeds.shape[1]):
        tokens = embeds[index[part]]
        similar[part] = cosine_between(tokens, tokens)
    return similar


def best_match(embeds: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Find for each row token the column token with the highest cosine.

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
    width = max(embeds.shape[1], isqrt(MAX_ELEMENTS))
    for part in blocks(len(rows), width):
        left = F.normalize(embeds[rows[part]].float(), dim=-1)
        for other in blocks(len(columns), width):
            similar, column = (left @ F.normalize(embeds[columns[other]].float(), dim=-1).T).max(dim=1)
            higher = similar > best[part]
            best[part] = torch.where(higher, similar, best[part])
            match[part] = torch.where(higher, columns[other][column], match[part])
    return best, match
