"""Intervals and paired tests for yes-or-no outcomes that come in clusters.

Several questions about one clip are not independent: a clip that is hard is hard for all of them. So intervals are
bootstrapped over clips, and the paired test sums each clip's differences before it looks at their spread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Interval:
    """A share with its confidence interval, all in 0..1 (a difference: -1..1)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same questions."""

    difference: Interval
    """Share right of the first minus share right of the second."""
    mcnemar_p: float
    """Exact, two-sided; takes questions as independent."""
    clustered_p: float
    """Two-sided; takes only clips as independent. The one to quote."""


def wilson(right: int, total: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share of independent outcomes (E. B. Wilson 1927). ``total`` must be positive."""
    if not 0 <= right <= total or total == 0:
        raise ValueError(f"right must lie in 0..total and total be positive, got {right} of {total}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, shrink = right / total, 1 + z * z / total
    middle = (share + z * z / (2 * total)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return Interval(share, middle - half, middle + half)


class ClusterBootstrap:
    """Percentile bootstrap over ``clusters`` clips. All shares use the same draws, so pairs stay pairs."""

    def __init__(self, clusters: int, draws: int = 2000, seed: int = 0, confidence: float = 0.95) -> None:
        rng = np.random.default_rng(seed)
        self._times = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=draws).astype(np.float64)
        self._tails = [50 * (1 - confidence), 50 * (1 + confidence)]

    def share(self, right: ArrayLike, total: ArrayLike) -> Interval:
        """``right`` and ``total`` [clusters]: counts of each clip. The share is the ratio of their sums."""
        return self._interval([(np.asarray(right, float), np.asarray(total, float))])

    def mean_of_shares(self, right: ArrayLike, total: ArrayLike) -> Interval:
        """``right`` and ``total`` [kinds, clusters]: the mean over kinds of each kind's share."""
        return self._interval(list(zip(np.asarray(right, float), np.asarray(total, float), strict=True)))

    def _interval(self, parts: list[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> Interval:
        value = float(np.mean([right.sum() / total.sum() for right, total in parts]))
        drawn = np.mean(
            [(self._times @ right) / np.maximum(self._times @ total, 1e-12) for right, total in parts], axis=0
        )
        low, high = np.percentile(drawn, self._tails)
        return Interval(value, float(low), float(high))


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact p of McNemar's test: of the questions that one method alone got right, is each half as likely?"""
    n, k = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0
    log_terms = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2) for i in range(k + 1)
    ]
    top = max(log_terms)
    tail = math.exp(top) * sum(math.exp(term - top) for term in log_terms)
    return min(1.0, 2 * tail)


def clustered_p(differences: ArrayLike) -> float:
    """Two-sided p that the clips' summed differences [clusters] have mean zero.

    The sums are independent between clips, so their mean over its standard error is normal for many clips: the
    one-sample test by which paired proportions are compared when they are clustered. 1.0 where nothing differs, and for
    a single clip, which proves nothing.
    """
    sums = np.asarray(differences, float)
    if len(sums) < 2:
        return 1.0
    spread = sums.std(ddof=1)
    if spread == 0:
        return 1.0 if sums.mean() == 0 else 0.0
    z = abs(sums.mean()) / (spread / math.sqrt(len(sums)))
    return math.erfc(z / math.sqrt(2))


def clustered_error(right: ArrayLike, total: ArrayLike) -> float:
    """Standard error of a share whose outcomes come in clusters: ``right`` and ``total`` [clusters] are counts.

    The sandwich estimate without correction for few clusters: the root of the clusters' squared summed residuals, over
    the number of outcomes. NaN for a single cluster, which says nothing of the spread.
    """
    hits, counts = np.asarray(right, float), np.asarray(total, float)
    if len(hits) < 2:
        return math.nan
    residuals = hits - counts * (hits.sum() / counts.sum())
    return float(np.sqrt((residuals**2).sum()) / counts.sum())


def compare(first: ArrayLike, second: ArrayLike, bootstrap: ClusterBootstrap) -> Comparison:
    """``first`` and ``second`` [clusters, questions] bool: right or wrong, question by question."""
    a, b = np.asarray(first, bool), np.asarray(second, bool)
    difference = a.astype(float).sum(1) - b.astype(float).sum(1)
    interval = bootstrap.share(difference, np.full(len(a), a.shape[1]))
    return Comparison(interval, mcnemar_exact(int((a & ~b).sum()), int((b & ~a).sum())), clustered_p(difference))
