"""OmniPack's selection and merging as pure functions on padded windows (arXiv 2608.03812, stage I)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omnisift.ops.density_peaks import density, separation

NEIGHBOURS = 7
"""k of the density."""
COVER_FAR, COVER_SALIENCE = 0.20, 0.35
"""Coverage part: what the largest distance in place adds to a distance, and the largest salience to a density."""
MERGE_SALIENCE = 0.10
"""What the largest salience of a kept token adds to its affinity with a dropped one, in cosine."""
EPSILON = 1e-6
"""In the denominator of `minmax`, as published."""


@dataclass(frozen=True)
class Rule:
    """The published constants of one modality."""

    eta: float
    """Share of the kept tokens that is chosen by salience."""
    far: float
    """What the largest distance in place subtracts from the affinity of a dropped token, in cosine."""
    beta: float
    """Weight of a kept token against the mean of its cluster."""
    axes: tuple[int, ...]
    """Rows of the position that count: time, height, width."""


def choose(similar: Tensor, apart: Tensor, salience: Tensor, valid: Tensor, kept: Tensor, eta: float) -> Tensor:
    """Choose the kept tokens of every window: a share by salience, the rest as density peaks among what remains.

    Args:
        similar: [G, N, N] cosine; padding is not read.
        apart: [G, N, N] distance in place, in any unit.
        salience: [G, N] float; the highest are kept.
        valid: [G, N] bool, False on padding.
        kept: [G] int64, kept tokens of each window.
        eta: share chosen by salience, at least one token.

    Returns:
        [G, N] bool. Of equal values the lowest index is taken.
    """
    # Importance part: the most salient tokens.
    important = torch.minimum(kept, (kept.double() * eta).round().long().clamp(min=1))  # half to even, as published
    keep = highest(salience, important, valid)
    # Coverage part: density peaks among the rest, by distance in content and place.
    rest = valid & ~keep
    distance = minmax(apart, rest.unsqueeze(1)).mul_(COVER_FAR).sub_(similar).add_(1).clamp_(min=0)
    peaks = density(distance, rest, NEIGHBOURS, squared=True) * (1 + COVER_SALIENCE * minmax(salience, rest))
    return keep | highest(peaks * separation(distance, peaks, rest), kept - important, rest)


def assign(
    similar: Tensor, apart: Tensor, salience: Tensor, keep: Tensor, valid: Tensor, rule: Rule
) -> tuple[Tensor, Tensor]:
    """Assign each dropped token to a kept one.

    A dropped token joins where ``cos - far minmax(apart) + 0.1 minmax(salience of the kept)`` is largest, with share
    ``w = 0.5 + 0.5 minmax(salience of the dropped)``. The published result is ``beta x + (1 - beta) m``, with m the
    mean of the kept x (weight 1) and its members. For W the sum of shares, that is a weighted mean with
    ``w (1 - beta) / (1 + beta W)`` against the kept token's 1, which is returned.

    Args:
        similar: [G, N, N] cosine.
        apart: [G, N, N] distance in place, in any unit.
        salience: [G, N] float.
        keep: [G, N] bool, from `choose`.
        valid: [G, N] bool, False on padding.
        rule: constants of the modality.

    Returns:
        The column of the kept token that each token joins, [G, N] int64, and its weight, [G, N] float32.
    """
    # The kept token with the highest affinity.
    affinity = minmax(apart, keep.unsqueeze(1)).mul_(-rule.far).add_(similar)
    affinity += MERGE_SALIENCE * minmax(salience, keep).unsqueeze(1)
    into = affinity.masked_fill_(~keep.unsqueeze(1), -torch.inf).argmax(dim=2)
    dropped = valid & ~keep
    share = torch.where(dropped, 0.5 + 0.5 * minmax(salience, dropped), 0.0)
    # W: a sum over a full matrix [G, N, N], as scattered additions vary in order on a GPU.
    joined = affinity.zero_().scatter_(2, into.unsqueeze(2), share.unsqueeze(2)).sum(dim=1).gather(1, into)
    weight = share * (1 - rule.beta) / (1 + rule.beta * joined)
    return into, torch.where(keep, 1.0, weight)


def distances(position: Tensor, valid: Tensor) -> Tensor:
    """Compute Euclidean distances in place, after scaling every axis of a window to [0, 1].

    Args:
        position: [G, N, A] int64: rotary ids of A axes.
        valid: [G, N] bool, False on padding.

    Returns:
        [G, N, N] float32.
    """
    inside = valid.unsqueeze(-1)
    high = position.masked_fill(~inside, torch.iinfo(torch.int64).min).amax(dim=1, keepdim=True)
    low = position.masked_fill(~inside, torch.iinfo(torch.int64).max).amin(dim=1, keepdim=True)
    scaled = (position - low).float() / (high - low).clamp(min=1).float()
    # Not by matrix products: they would make equal places differ by noise.
    return torch.cdist(scaled, scaled, compute_mode="donot_use_mm_for_euclid_dist")


def minmax(values: Tensor, among: Tensor) -> Tensor:
    """Scale values to [0, 1] over the last axis.

    Args:
        values: [..., N] float.
        among: bool, broadcast: the entries that count.

    Returns:
        A new tensor; 0 where ``among`` is False.
    """
    low = values.masked_fill(~among, torch.inf).amin(dim=-1, keepdim=True)
    high = values.masked_fill(~among, -torch.inf).amax(dim=-1, keepdim=True)
    return ((values - low) / (high - low + EPSILON)).masked_fill_(~among, 0.0)


def highest(score: Tensor, count: Tensor, among: Tensor) -> Tensor:
    """Select the highest scores of every row.

    Args:
        score: [G, N] float.
        count: [G] int64: entries selected in each row.
        among: [G, N] bool: the entries that count.

    Returns:
        [G, N] bool. Of equal scores the lowest index is taken.
    """
    order = torch.argsort(score.masked_fill(~among, -torch.inf), dim=1, descending=True, stable=True)
    return (torch.argsort(order, dim=1) < count.unsqueeze(1)) & among
