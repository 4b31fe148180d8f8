"""Against scipy, and against what the words promise: intervals that cover, tests that neither sleep nor cry wolf."""

import math

import numpy as np
import pytest
from scipy import stats

from omnisift.evaluation.statistics import ClusterBootstrap, clustered_p, compare, mcnemar_exact, wilson


@pytest.mark.parametrize(("right", "total"), [(0, 10), (3, 10), (10, 10), (970, 1000)])
def test_wilson_is_scipys(right, total):
    got = wilson(right, total)
    want = stats.binomtest(right, total).proportion_ci(method="wilson")
    assert (got.low, got.high) == pytest.approx((want.low, want.high), abs=1e-12)
    assert got.value == right / total


@pytest.mark.parametrize(("right", "total"), [(1, 0), (5, 4), (-1, 4)])
def test_wilson_refuses_nonsense(right, total):
    with pytest.raises(ValueError, match="total"):
        wilson(right, total)


@pytest.mark.parametrize("b", [0, 1, 5, 40, 400])
@pytest.mark.parametrize("c", [0, 3, 39, 500])
def test_mcnemar_is_scipys(b, c):
    want = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert math.isclose(mcnemar_exact(b, c), want, rel_tol=1e-9)


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
    naive = wilson(int(right.sum()), 1600)
    assert (interval.high - interval.low) > 2 * (naive.high - naive.low)


def test_bootstrap_agrees_with_scipy():
    rng = np.random.default_rng(2)
    right = rng.integers(0, 9, 300)
    got = ClusterBootstrap(300, draws=4000).share(right, np.full(300, 8))
    want = stats.bootstrap((right / 8,), np.mean, n_resamples=4000, method="percentile", rng=rng).confidence_interval
    assert (got.low, got.high) == pytest.approx((want.low, want.high), abs=0.006)
    assert got.value == pytest.approx(right.mean() / 8)


def test_mean_of_shares_weighs_kinds_alike():
    interval = ClusterBootstrap(2, draws=10).mean_of_shares([[1, 1], [0, 0]], [[1, 1], [9, 9]])
    assert interval.value == 0.5


def test_compare():
    rng = np.random.default_rng(3)
    a = rng.random((500, 8)) < 0.9
    b = a & (rng.random((500, 8)) < 0.97)
    better = compare(a, b, ClusterBootstrap(500))
    assert better.difference.low > 0
    assert better.difference.value == pytest.approx(a.mean() - b.mean())
    assert max(better.mcnemar_p, better.clustered_p) < 1e-6
    same = compare(a, a, ClusterBootstrap(500))
    assert (same.mcnemar_p, same.clustered_p, same.difference.value) == (1.0, 1.0, 0.0)
    noise = [
        compare(rng.random((200, 8)) < 0.8, rng.random((200, 8)) < 0.8, ClusterBootstrap(200, 10)) for _ in range(200)
    ]
    assert np.mean([n.clustered_p < 0.05 for n in noise]) < 0.1
