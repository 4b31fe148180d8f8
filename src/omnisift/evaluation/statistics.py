"""Intervals and paired tests for binary outcomes in clusters.

Questions about one clip are not independent. So intervals are bootstrapped over clips, and the paired test uses the sum
of the differences of each clip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Interval:
    """A proportion with its confidence interval, in 0..1 (a difference: -1..1)."""

    value: float
    low: float
    high: float


class ClusterBootstrap:
    """Percentile bootstrap over clusters (clips); all proportions use the same draws, so that pairs stay paired.

    It is not `scipy.stats.bootstrap`, whose draws would change published intervals and are made again for every call.
    """

    def __init__(self, clusters: int, draws: int = 2000, seed: int = 0, confidence: float = 0.95) -> None:
        rng = np.random.default_rng(seed)
        # [draws, clusters]: how often each resample contains each cluster.
        self._times = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=draws).astype(np.float64)
        self._tails = [50 * (1 - confidence), 50 * (1 + confidence)]

    def share(self, right: ArrayLike, total: ArrayLike) -> Interval:
        """Return the ratio of the sums of ``right`` and ``total``, both [clusters] counts."""
        hits, counts = np.asarray(right, float), np.asarray(total, float)
        # The statistic of every resample, then its percentiles.
        drawn = (self._times @ hits) / np.maximum(self._times @ counts, 1e-12)
        low, high = np.percentile(drawn, self._tails)
        return Interval(float(hits.sum() / counts.sum()), float(low), float(high))


def clustered_p(differences: ArrayLike) -> float:
    """Return the two-sided p for the hypothesis that the summed differences [clusters] of clips have mean zero.

    The sums are independent between clips, so for many clips their mean over its standard error is normal: the
    one-sample test for paired proportions in clusters. 1.0 where nothing differs and for a single clip.
    """
    sums = np.asarray(differences, float)
    if len(sums) < 2:
        return 1.0
    spread = sums.std(ddof=1)
    if spread == 0:
        return 1.0 if sums.mean() == 0 else 0.0
    # z = mean / (s / sqrt(n)); the two-sided normal tail is erfc(z / sqrt(2)).
    z = abs(sums.mean()) / (spread / math.sqrt(len(sums)))
    return math.erfc(z / math.sqrt(2))


def not_worse_p(differences: ArrayLike, margin: float) -> float:
    """Return the one-sided p for the hypothesis that the mean of the differences [clusters] is at most ``-margin``.

    A small p says that the first of two methods is not worse than the second by more than ``margin``. The test is that
    of `clustered_p`.
    """
    from scipy.stats import norm

    sums = np.asarray(differences, float) + margin
    if len(sums) < 2:
        return 1.0
    spread = sums.std(ddof=1)
    if spread == 0:
        return 0.0 if sums.mean() > 0 else 1.0
    return float(norm.sf(sums.mean() / (spread / math.sqrt(len(sums)))))


def holm(values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number by Holm's method, in the order given."""
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=lambda at: values[at])):
        # The k-th smallest p is multiplied by the number of those that are not smaller, and never falls.
        largest = max(largest, min(1.0, values[index] * (len(values) - rank)))
        adjusted[index] = largest
    return adjusted


def clustered_error(right: ArrayLike, total: ArrayLike) -> float:
    """Return the standard error of a proportion whose outcomes come in clusters.

    This is the sandwich estimate without correction for few clusters.

    Args:
        right: [clusters] successes.
        total: [clusters] trials.

    Returns:
        The error; NaN for a single cluster.
    """
    hits, counts = np.asarray(right, float), np.asarray(total, float)
    if len(hits) < 2:
        return math.nan
    # sqrt(sum of squared summed residuals of the clusters) / number of outcomes.
    residuals = hits - counts * (hits.sum() / counts.sum())
    return float(np.sqrt((residuals**2).sum()) / counts.sum())


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's coefficient (extra ``eval``); NaN for fewer than three pairs or without spread."""
    from scipy.stats import spearmanr

    if len(first) < 3 or len(set(first)) == 1 or len(set(second)) == 1:
        return math.nan
    return float(spearmanr(first, second).statistic)
