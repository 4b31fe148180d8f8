"""Shares, clustered errors and paired tests against readable loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnisift.errors import UsageError
from omnisift.evaluation.public.eval_run import Graded, by_group, paired, score


def graded(runs: list[tuple[str, bool]], kind: str = "short") -> list[Graded]:
    return [Graded(str(number), video, right, {"duration": kind}) for number, (video, right) in enumerate(runs)]


runs = st.lists(st.tuples(st.sampled_from("abcde"), st.booleans()), min_size=1, max_size=30)


@given(runs)
def test_error_is_that_of_the_plain_formula(pairs: list[tuple[str, bool]]) -> None:
    result = score(graded(pairs))
    mean = sum(right for _, right in pairs) / len(pairs)
    assert result.value == pytest.approx(mean)
    videos = {video for video, _ in pairs}
    assert (result.questions, result.videos) == (len(pairs), len(videos))
    if len(videos) == 1:
        assert math.isnan(result.error)
        return
    squares = sum(sum(right - mean for video, right in pairs if video == one) ** 2 for one in videos)
    assert result.error == pytest.approx(math.sqrt(squares) / len(pairs))


def test_questions_of_one_video_each_have_the_plain_error() -> None:
    result = score(graded([(str(number), number % 4 == 0) for number in range(100)]))
    assert result.error == pytest.approx(math.sqrt(0.25 * 0.75 / 100))


def test_groups_are_scored_apart() -> None:
    runs = [*graded([("a", True), ("b", True)]), *graded([("c", False), ("d", True)], kind="long")]
    parts = by_group(runs)["duration"]
    assert {name: part.value for name, part in parts.items()} == {"long": 0.5, "short": 1.0}


def test_a_run_against_itself_shows_nothing() -> None:
    run = graded([("a", True), ("b", False), ("b", True)])
    difference, p = paired(run, run)
    assert (difference.value, p) == (0.0, 1.0)


def test_a_clear_gain_is_found_and_signed() -> None:
    first = graded([(str(number // 2), True) for number in range(40)])
    second = graded([(str(number // 2), number % 3 == 0) for number in range(40)])
    difference, p = paired(first, second)
    assert difference.value == pytest.approx(26 / 40)
    assert difference.low > 0
    assert p < 1e-6
    assert paired(second, first)[0].value == pytest.approx(-26 / 40)


def test_many_questions_of_one_video_prove_less_than_many_videos() -> None:
    rng = np.random.default_rng(0)
    gains = [bool(x) for x in rng.random(60) < 0.4]
    _, spread = paired(graded([(str(n), g) for n, g in enumerate(gains)]), graded([(str(n), False) for n in range(60)]))
    blocks = sorted(gains)
    _, one = paired(
        graded([(str(n // 20), g) for n, g in enumerate(blocks)]), graded([(str(n // 20), False) for n in range(60)])
    )
    assert one > spread


def test_other_questions_can_not_be_paired() -> None:
    with pytest.raises(UsageError, match="1 questions are in only one"):
        paired(graded([("a", True), ("b", True)]), graded([("a", True)]))
