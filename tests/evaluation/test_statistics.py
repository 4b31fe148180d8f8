"""Against scipy, and against what the words promise: intervals that cover, tests that neither sleep nor cry wolf."""

import math

import numpy as np
import pytest
from scipy import stats

from omnisift.evaluation.statistics import ClusterBootstrap, clustered_p, rank_correlation


def test_clustered_p_is_scipys_for_many_clips():
    rng = np.random.default_rng(0)
    sums = rng.integers(-3, 4, 4000) + (rng.random(4000) < 0.05)
    assert clustered_p(sums) == pytest.approx(stats.ttest_1samp(sums, 0).pvalue, rel=0.01)
    assert clustered_p(np.zeros(5)) == 1.0
    assert clustered_p(np.ones(5)) == 0.0
    assert clustered_p([3]) == 1.0


def test_bootstrap_covers_and_knows_clusters():
    """With copies inside clips, the interval over clips must be wider than one that takes questions as independent."""
    rng = np.random.default_rng(1)
    hits = 0
    for trial in range(100):
        right = (rng.random(200) < 0.7) * 8  # all 8 questions of a clip have the same result
        interval = ClusterBootstrap(200, draws=400, seed=trial).share(right, np.full(200, 8))
        hits += interval.low <= 0.7 <= interval.high
    assert hits >= 88
    naive = stats.binomtest(int(right.sum()), 1600).proportion_ci(method="wilson")
    assert (interval.high - interval.low) > 2 * (naive.high - naive.low)


def test_bootstrap_agrees_with_scipy():
    rng = np.random.default_rng(2)
    right = rng.integers(0, 9, 300)
    got = ClusterBootstrap(300, draws=4000).share(right, np.full(300, 8))
    want = stats.bootstrap((right / 8,), np.mean, n_resamples=4000, method="percentile", rng=rng).confidence_interval
    assert (got.low, got.high) == pytest.approx((want.low, want.high), abs=0.006)
    assert got.value == pytest.approx(right.mean() / 8)


def test_clustered_p_finds_a_gain_and_no_noise():
    rng = np.random.default_rng(3)
    a = rng.random((500, 8)) < 0.9
    b = a & (rng.random((500, 8)) < 0.97)
    gains = a.sum(axis=1) - b.sum(axis=1)
    interval = ClusterBootstrap(500).share(gains, np.full(500, 8))
    assert interval.low > 0
    assert interval.value == pytest.approx(a.mean() - b.mean())
    assert clustered_p(gains) < 1e-6
    noise = [(rng.random((200, 8)) < 0.8).sum(1) - (rng.random((200, 8)) < 0.8).sum(1) for _ in range(200)]
    assert np.mean([clustered_p(sums) < 0.05 for sums in noise]) < 0.1


def test_rank_correlation():
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9487, abs=1e-4)
    assert math.isnan(rank_correlation([1, 2], [1, 2]))
    assert math.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))
