"""Integer counts from ratios: the paper's settings, the released rounding, and checked inputs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omnisift.budget import Budget, from_rho
from omnisift.chunks import ChunkShapes
from omnisift.errors import BudgetError


def shapes(*chunks: tuple[int, int, int], clip: list[int] | None = None) -> ChunkShapes:
    frame0, frame1, audio = torch.tensor(chunks).unbind(dim=1)
    return ChunkShapes(frame0, frame1, audio, torch.zeros_like(frame0) if clip is None else torch.tensor(clip))


def counts(budget: Budget, *chunks: tuple[int, int, int]) -> list[tuple[int, ...]]:
    kept = budget.counts(shapes(*chunks))
    return [tuple(row) for row in torch.stack([kept.frame0, kept.frame1, kept.audio], dim=1).tolist()]


def test_the_papers_settings_follow_from_an_overall_ratio():
    chunk = (320, 320, 50)
    assert counts(Budget(retain=0.35), chunk) == counts(from_rho(0.67, 0.4), chunk) == [(106, 106, 30)]
    assert counts(Budget(retain=0.25), chunk) == counts(from_rho(0.77, 0.5), chunk) == [(74, 74, 25)]
    assert Budget(retain=0.35).rates(640, 50) == pytest.approx((0.33, 0.60), abs=0.001)
    assert Budget(retain=0.25).rates(640, 50) == pytest.approx((0.23, 0.50), abs=0.001)


def test_audio_keeps_twice_a_small_ratio():
    assert Budget(retain=0.10).rates(600, 150) == pytest.approx((0.075, 0.2))
    assert Budget(retain=0.05).rates(640, 50) == pytest.approx((0.05 - 0.05 * 50 / 640, 0.1))
    # Where the ratio passes 0.25, nothing jumps.
    assert Budget(retain=0.25).rates(600, 150) == pytest.approx(Budget(retain=0.2500001).rates(600, 150), abs=1e-6)


def test_few_video_tokens_share_the_ratio_evenly():
    """nano: 32 video and 50 audio tokens per chunk."""
    assert Budget(retain=0.25).rates(96, 150) == (0.25, 0.25)
    assert Budget(retain=1.0).rates(96, 150) == (1.0, 1.0)


def test_the_split_ends_below_half_of_the_ratio():
    """The video keeps 0.25 - 0.25 * audio / video: exactly half of 0.25 at 50 of 100, less at 51."""
    assert Budget(retain=0.25).rates(100, 50) == (0.125, 0.5)
    assert Budget(retain=0.25).rates(100, 51) == (0.25, 0.25)


def test_a_clip_without_audio_or_video_uses_the_ratio_itself():
    assert Budget(retain=0.4).rates(640, 0) == (0.4, 0.65)  # the audio share applies to nothing
    assert Budget(retain=0.4).rates(0, 50) == (0.4, 0.4)


def test_an_overall_ratio_is_split_for_each_clip():
    """The first clip has audio; the second has none and therefore keeps more of its video."""
    kept = Budget(retain=0.25).counts(shapes((320, 320, 50), (320, 320, 0), clip=[0, 1]))
    assert kept.frame0.tolist() == [74, 80]
    assert kept.audio.tolist() == [25, 0]


@pytest.mark.parametrize(("n", "rho", "dropped"), [(50, 0.58, 28), (100, 0.29, 28), (50, 0.5, 25), (7, 0.0, 0)])
def test_rounding_is_the_released_float_product(n: int, rho: float, dropped: int):
    assert counts(from_rho(rho, rho), (n, n, n)) == [(n - dropped,) * 3]


def test_second_frame_drops_as_many_as_the_first_or_none():
    budget = Budget(retain_video=0.5, retain_audio=1.0)
    assert counts(budget, (4, 4, 0), (4, 6, 0), (4, 0, 0)) == [(2, 2, 0), (2, 6, 0), (2, 0, 0)]


def test_a_single_audio_token_stays():
    assert counts(Budget(retain_video=0.5, retain_audio=0.01), (4, 4, 1), (4, 4, 2)) == [(2, 2, 1), (2, 2, 1)]


def test_audio_without_anchors_stays():
    """A ratio below the 12 decimals of rho drops all video; the released code then keeps all audio."""
    assert counts(Budget(retain_video=1e-13, retain_audio=0.5), (4, 4, 10)) == [(0, 0, 10)]
    assert counts(Budget(retain_video=0.5, retain_audio=1e-13), (4, 4, 10)) == [(2, 2, 10)]


def test_counts_by_segment_follow_the_streams_numbering():
    assert Budget(retain_video=0.5, retain_audio=0.5).counts(shapes((4, 4, 6))).by_segment().tolist() == [2, 2, 3]


@settings(max_examples=1000, deadline=None)
@given(n=st.integers(2, 20_000), rho=st.floats(0, 0.999))
def test_any_ratio_rounds_as_in_python(n: int, rho: float):
    exact = round(1 - round(1 - rho, 12), 12)
    assert counts(from_rho(rho, rho), (n, n, n)) == [(n - int(n * exact),) * 3]


@settings(max_examples=300, deadline=None)
@given(n0=st.integers(1, 400), na=st.integers(0, 400), chunks=st.integers(1, 40), retain=st.floats(0.01, 1))
def test_an_overall_ratio_is_met_up_to_rounding(n0: int, na: int, chunks: int, retain: float):
    """Each frame and each chunk's audio rounds up by less than one token; a single audio token is kept."""
    kept = Budget(retain=retain).counts(shapes(*[(n0, n0, na)] * chunks))
    total = sum(int(part.sum()) for part in (kept.frame0, kept.frame1, kept.audio))
    exact = retain * chunks * (2 * n0 + na)
    assert exact - 1e-6 * chunks <= total <= exact + 3 * chunks


@pytest.mark.parametrize("value", [0, -0.1, 1.0001, math.nan, math.inf, "0.25", True])
@pytest.mark.parametrize("name", ["retain", "retain_video", "retain_audio"])
def test_an_invalid_ratio_is_refused_by_name(name: str, value: object):
    given_values = {"retain_video": 0.5, "retain_audio": 0.5} if name != "retain" else {}
    with pytest.raises(BudgetError, match=rf"^{name} is the fraction kept and must be in \(0, 1\]"):
        Budget(**{**given_values, name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "fraction"), [(25, "0.25"), (33.5, "0.335"), ("25%", "0.25"), ("25 %", "0.25"), ("0.25", "0.25")]
)
def test_a_percentage_is_refused_with_the_fraction_it_means(value: object, fraction: str):
    with pytest.raises(BudgetError, match=rf"\(0, 1\], got .*; did you mean {fraction}\?$"):
        Budget(retain=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -25, 1.5, 100, 250, "much", math.nan])
def test_no_fraction_is_suggested_for_other_values(value: object):
    with pytest.raises(BudgetError) as caught:
        Budget(retain=value)  # type: ignore[arg-type]
    assert "did you mean" not in str(caught.value)


def test_a_number_is_an_overall_ratio():
    budget = Budget(retain_video=0.5, retain_audio=0.25)
    assert Budget.of(0.25) == Budget(retain=0.25)
    assert Budget.of(budget) is budget
    with pytest.raises(BudgetError, match="did you mean"):
        Budget.of(25)


def test_a_budget_shows_what_was_given():
    assert repr(Budget(retain=0.25)) == "Budget(retain=0.25)"
    assert repr(from_rho(0.77, 0.5)) == "Budget(retain_video=0.23, retain_audio=0.5)"
    assert eval(repr(Budget(retain=0.25))) == Budget(retain=0.25)


@pytest.mark.parametrize("values", [{}, {"retain_video": 0.5}, {"retain": 0.5, "retain_audio": 0.5}])
def test_an_ambiguous_budget_is_refused(values: dict[str, float]):
    with pytest.raises(BudgetError, match="retain"):
        Budget(**values)


@pytest.mark.parametrize("rho", [-0.1, 1.0, math.nan])
def test_rho_is_checked_under_its_own_name(rho: float):
    with pytest.raises(BudgetError, match="rho_audio is the fraction removed"):
        from_rho(0.5, rho)
