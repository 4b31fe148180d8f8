"""OmniPack's choice and merging as pure functions on a rectangle of windows (arXiv 2608.03812, stage I)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from omnisift.compressors.density_peaks import density, separation

NEIGHBOURS = 7
COVER_FAR, COVER_SALIENCE = 0.20, 0.35
"""What the largest distance in place adds to a distance of the coverage part, and the largest salience to a density."""
MERGE_SALIENCE = 0.10
"""What the largest salience of a kept token is worth to a dropped one, in cosine."""
SMALL = 1e-6
"""In the denominator of `minmax`, as published."""


@dataclass(frozen=True)
class Rule:
    """The published constants of one modality."""

    eta: float
    """Share of the kept tokens that is chosen by salience."""
    far: float
    """What the largest distance in place costs a dropped token that looks for a kept one, in cosine."""
    beta: float
    """Share of itself that a kept token holds against the mean of its cluster."""
    axes: tuple[int, ...]
    """Rows of the position that count: time, height, width."""


def choose(similar: Tensor, apart: Tensor, salience: Tensor, valid: Tensor, kept: Tensor, eta: float) -> Tensor:
    """[G, N] bool: ``kept`` [G] tokens of every window, a share ``eta`` (at least one) by salience, the rest as centres
    of density peaks among what remains.

    ``similar`` [G, N, N] cosine; ``apart`` [G, N, N] distance in place, any unit; ``salience`` [G, N] float, higher
    stays; ``valid`` [G, N] bool. Padding is not read. Ties take the lowest index.
    """
    first = torch.minimum(kept, (kept.double() * eta).round().long().clamp(min=1))  # half to even, as published
    keep = highest(salience, first, valid)
    rest = valid & ~keep
    distance = minmax(apart, rest.unsqueeze(1)).mul_(COVER_FAR).sub_(similar).add_(1).clamp_(min=0)
    crowd = density(distance, rest, NEIGHBOURS, squared=True) * (1 + COVER_SALIENCE * minmax(salience, rest))
    return keep | highest(crowd * separation(distance, crowd, rest), kept - first, rest)


def joins(
    similar: Tensor, apart: Tensor, salience: Tensor, keep: Tensor, valid: Tensor, rule: Rule
) -> tuple[Tensor, Tensor]:
    """(into [G, N] int64, weight [G, N] float32): the column of the kept token that each dropped one joins, and with
    what weight against the kept token's 1. Shapes as in `choose`; ``keep`` [G, N] bool.

    A dropped token joins where ``cos - far minmax(apart) + 0.1 minmax(salience of the kept)`` is largest, with share
    ``w = 0.5 + 0.5 minmax(salience of the dropped)``. The published result is ``beta x + (1 - beta) m``, m the mean of
    the kept x (weight 1) and all that joined: for W the sum of shares, a weighted mean with ``w (1 - beta) / (1 + beta
    W)`` beside the kept token's 1, which is what is returned.
    """
    affinity = minmax(apart, keep.unsqueeze(1)).mul_(-rule.far).add_(similar)
    affinity += MERGE_SALIENCE * minmax(salience, keep).unsqueeze(1)
    into = affinity.masked_fill_(~keep.unsqueeze(1), -torch.inf).argmax(dim=2)
    dropped = valid & ~keep
    share = torch.where(dropped, 0.5 + 0.5 * minmax(salience, dropped), 0.0)
    # [G, N, N] again: a sum over a full matrix, as scattered additions vary in order on a GPU.
    joined = affinity.zero_().scatter_(2, into.unsqueeze(2), share.unsqueeze(2)).sum(dim=1).gather(1, into)
    weight = share * (1 - rule.beta) / (1 + rule.beta * joined)
    return into, torch.where(keep, 1.0, weight)


def distances(position: Tensor, valid: Tensor) -> Tensor:
    """[G, N, N] float32: Euclidean, after scaling every axis of a window to [0, 1].

    ``position`` [G, N, A] int64: rotary ids of A axes.
    """
    inside = valid.unsqueeze(-1)
    high = position.masked_fill(~inside, torch.iinfo(torch.int64).min).amax(dim=1, keepdim=True)
    low = position.masked_fill(~inside, torch.iinfo(torch.int64).max).amin(dim=1, keepdim=True)
    place = (position - low).float() / (high - low).clamp(min=1).float()
    # Not by products: they would make equal places differ by noise.
    return torch.cdist(place, place, compute_mode="donot_use_mm_for_euclid_dist")


def minmax(values: Tensor, among: Tensor) -> Tensor:
    """A new tensor: ``values`` [..., N] scaled to [0, 1] over the last axis ``among`` bool (broadcast); 0 elsewhere."""
    low = values.masked_fill(~among, torch.inf).amin(dim=-1, keepdim=True)
    high = values.masked_fill(~among, -torch.inf).amax(dim=-1, keepdim=True)
    return ((values - low) / (high - low + SMALL)).masked_fill_(~among, 0.0)


def highest(score: Tensor, count: Tensor, among: Tensor) -> Tensor:
    """[G, N] bool: the ``count`` [G] best of every row ``among`` [G, N]; ties take the lowest index."""
    order = torch.argsort(score.masked_fill(~among, -torch.inf), dim=1, descending=True, stable=True)
    return (torch.argsort(order, dim=1) < count.unsqueeze(1)) & among
