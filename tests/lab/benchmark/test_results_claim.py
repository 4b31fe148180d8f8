"""The page about the default: every verdict on made-up results whose truth is known."""

import numpy as np
import pytest

from omnisift.evaluation.statistics import holm, not_worse_p
from omnisift.lab.benchmark import results_claim
from omnisift.lab.benchmark.plots import budget_curves, surface
from omnisift.lab.benchmark.results import Result, ResultRow
from omnisift.lab.benchmark.results_claim import claim_page, compare

CLIPS = 400


def result(name, accuracies, settings=("base",), percent="25", seed=0):
    """A result whose methods are right on all questions but the given share, which ``heard`` has most of."""
    rng, rows = np.random.default_rng(seed), []
    common = rng.random((CLIPS, 8))
    for setting in settings:
        rows.append(ResultRow(setting, "full", "", (common < 0.95).astype(float), {"video": [9, 9], "audio": [9, 9]}))
        for label, accuracy in accuracies.items():
            right = (common < accuracy).astype(float)
            rows.append(ResultRow(setting, label, percent, right, {"video": [2, 9], "audio": [3, 9]}))
    recipe = {"name": name, "settings": list(settings), "ways": [{"label": label, "group": ""} for label in accuracies]}
    return Result(recipe, {}, [], rows, dict.fromkeys(settings, CLIPS))


@pytest.mark.parametrize(
    ("ours", "rival", "verdict"),
    [(0.94, 0.90, "first"), (0.94, 0.94, "first"), (0.938, 0.940, "not worse"), (0.90, 0.94, "behind")],
)
def test_verdicts(ours, rival, verdict):
    found = compare("x", result("base", {"resift": ours, "evs": rival, "random": 0.5}), "base", "25")
    assert found.rival.label == "evs"
    assert found.verdict(found.p) == verdict


def test_few_clips_decide_nothing():
    """Two methods that are right on other clips are alike, but half a point is too little to tell."""
    rng = np.random.default_rng(1)
    one, other = ((rng.random((CLIPS, 8)) < 0.9).astype(float) for _ in range(2))
    rows = [
        ResultRow("base", "full", "", one),
        ResultRow("base", "resift", "25", one),
        ResultRow("base", "evs", "25", other),
    ]
    recipe = {"name": "base", "settings": ["base"], "ways": [{"label": n, "group": ""} for n in ("resift", "evs")]}
    found = compare("x", Result(recipe, {}, [], rows, {"base": CLIPS}), "base", "25")
    assert found.verdict(found.p) in ("open", "first, open")


def test_variants_of_ours_and_baselines_are_no_rivals():
    found = compare(
        "x", result("base", {"resift": 0.8, "v_cast+resift": 0.9, "video only": 0.95, "evs": 0.7}), "base", "25"
    )
    assert found.rival.label == "evs"
    assert compare("x", result("base", {"evs": 0.7}), "base", "25") is None


def test_p_values():
    rng = np.random.default_rng(2)
    same = rng.normal(0, 0.1, 1000)
    assert not_worse_p(same, 0.05) < 1e-9 < not_worse_p(same - 0.05, 0.05) < 0.99
    assert not_worse_p(same - 0.1, 0.05) > 0.999
    assert (not_worse_p(np.zeros(9), 0.01), not_worse_p(np.zeros(9) - 1, 0.01), not_worse_p([0], 1)) == (0.0, 1.0, 1.0)
    # The example of Holm's method: 0.01 of three, 0.02 of two, and p values never fall or exceed 1.
    assert holm([0.02, 0.01, 0.6]) == pytest.approx([0.04, 0.03, 0.6])
    assert holm([0.5, 0.4]) == pytest.approx([0.8, 0.8])
    assert holm([]) == []


def test_the_page_says_where_it_is_not_first():
    best, worse = {"resift": 0.94, "evs": 0.90}, {"resift": 0.90, "evs": 0.94}
    results = {name: result(name, best) for name in results_claim.MAIN}
    text = claim_page(results)
    assert "against the best rival, 3 comparisons: first in 3.** It is ahead beyond chance in 3." in text
    assert "not first" not in text
    results["wide"] = result("wide", worse)
    results["base-conditions"] = result("base-conditions", best, ("base", "loud"), "10")
    text = claim_page(results)
    assert "5 comparisons: first in 4, behind in 1.**" in text
    assert "Where it is not first: wide, 25 % (behind: `evs`, -3.9" in text
    assert "| loud | 95" in text
    assert claim_page({"base": results["base"]}) == ""


def test_plots_have_the_rows():
    first, second = result("base", {"resift": 0.9, "random": 0.5}), result("base-budgets", {"resift": 0.8}, percent="5")
    curves = budget_curves([first, second])
    assert list(curves) == ["base"]
    assert [len(line) for line in curves["base"].values()] == [2]
    cells = surface(result("surface-base", {"resift": 0.9}, percent="100"), "resift")
    assert cells == {"video": [100.0], "audio": [100.0], "below": [[0.0]]}
