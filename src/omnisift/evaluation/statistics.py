"""Intervals and paired tests for binary outcomes in clusters.

Questions about one clip are not independent. So intervals are bootstrapped over clips, and the paired test uses the sum
of the differences of each clip.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Interval:
    """A proportion with its confidence interval, in 0..1 (a difference: -1..1)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same questions."""

    difference: Interval
    """Proportion correct of the first minus that of the second."""
    mcnemar_p: float
    """Exact, two-sided; assumes that questions are independent."""
    clustered_p: float
    """Two-sided; assumes only that clips are independent. The one to quote."""


def wilson(right: int, total: int, confidence: float = 0.95) -> Interval:
    """Return Wilson's score interval of a proportion of independent outcomes (E. B. Wilson 1927).

    Args:
        right: Successes.
        total: Trials, at least 1.
        confidence: Coverage of the interval.

    Raises:
        ValueError: ``right`` is not in 0..total, or ``total`` is 0.
    """
    if not 0 <= right <= total or total == 0:
        raise ValueError(f"right must be in 0..total and total positive, got {right} of {total}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, shrink = right / total, 1 + z * z / total
    # Centre (p + z^2 / 2n) / (1 + z^2 / n), half width z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / 4n^2).
    middle = (share + z * z / (2 * total)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return Interval(share, middle - half, middle + half)


class ClusterBootstrap:
    """Percentile bootstrap over clusters (clips); all proportions use the same draws, so that pairs stay paired."""

    def __init__(self, clusters: int, draws: int = 2000, seed: int = 0, confidence: float = 0.95) -> None:
        rng = np.random.default_rng(seed)
        # [draws, clusters]: how often each resample contains each cluster.
        self._times = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=draws).astype(np.float64)
        self._tails = [50 * (1 - confidence), 50 * (1 + confidence)]

    def share(self, right: ArrayLike, total: ArrayLike) -> Interval:
        """Return the ratio of the sums of ``right`` and ``total``, both [clusters] counts."""
        return self._interval([(np.asarray(right, float), np.asarray(total, float))])

    def mean_of_shares(self, right: ArrayLike, total: ArrayLike) -> Interval:
        """Return the mean over kinds of each kind's proportion; ``right`` and ``total`` are [kinds, clusters]."""
        return self._interval(list(zip(np.asarray(right, float), np.asarray(total, float), strict=True)))

    def _interval(self, parts: list[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> Interval:
        value = float(np.mean([right.sum() / total.sum() for right, total in parts]))
        # The statistic of every resample, then its percentiles.
        drawn = np.mean(
            [(self._times @ right) / np.maximum(self._times @ total, 1e-12) for right, total in parts], axis=0
        )
        low, high = np.percentile(drawn, self._tails)
        return Interval(value, float(low), float(high))


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Return the two-sided exact p of McNemar's test.

    Args:
        only_first: Questions that the first method alone answers correctly.
        only_second: Questions that the second method alone answers correctly.
    """
    n, k = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0
    # 2 P(X <= k) for X ~ Binomial(n, 1/2), summed in logarithms.
    log_terms = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2) for i in range(k + 1)
    ]
    top = max(log_terms)
    tail = math.exp(top) * sum(math.exp(term - top) for term in log_terms)
    return min(1.0, 2 * tail)


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


def compare(first: ArrayLike, second: ArrayLike, bootstrap: ClusterBootstrap) -> Comparison:
    """Compare two methods; ``first`` and ``second`` are [clusters, questions] bool: answered correctly or not."""
    a, b = np.asarray(first, bool), np.asarray(second, bool)
    difference = a.astype(float).sum(1) - b.astype(float).sum(1)
    interval = bootstrap.share(difference, np.full(len(a), a.shape[1]))
    return Comparison(interval, mcnemar_exact(int((a & ~b).sum()), int((b & ~a).sum())), clustered_p(difference))
