"""Integer shares of a total: exact sums, bounds, ties, and the same shares as a readable loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.oracle import check_rounded, shares
from tests.helpers.prompts import random_prompt

from omnisift.budget import Budget
from omnisift.chunks import ChunkShapes
from omnisift.ops.integer_shares import allocate, per_frame


def shared(weights: list[float], sizes: list[int], total: int, least: int = 0) -> list[int]:
    return allocate(torch.tensor(weights, dtype=torch.float64), torch.tensor(sizes), total, least).tolist()


@st.composite
def cases(draw: st.DrawFn, weight: st.SearchStrategy[float]) -> tuple[list[float], list[int], int, int]:
    sizes = draw(st.lists(st.integers(0, 40), max_size=12))
    weights = draw(st.lists(weight, min_size=len(sizes), max_size=len(sizes)))
    return weights, sizes, draw(st.integers(0, sum(sizes))), draw(st.integers(0, 5))


@settings(max_examples=300, deadline=None)
@given(cases(st.one_of(st.just(0.0), st.floats(0, 1e6), st.floats(allow_nan=True, allow_infinity=True))))
def test_any_weights_meet_the_total_within_the_bounds(case: tuple[list[float], list[int], int, int]):
    _, sizes, total, least = case
    result = shared(*case)
    assert sum(result) == total
    assert all(0 <= count <= size for count, size in zip(result, sizes, strict=True))
    if sum(min(size, least) for size in sizes) <= total:
        assert all(count >= min(size, least) for count, size in zip(result, sizes, strict=True))


@settings(max_examples=300, deadline=None)
@given(cases(st.floats(1e-3, 1e3)))
def test_equals_the_readable_loop(case: tuple[list[float], list[int], int, int]):
    weights, sizes, total, least = case
    used = [i for i, size in enumerate(sizes) if size > least]
    floor = [min(size, least) for size in sizes]
    if sum(floor) > total:
        least, used, floor = 0, [i for i, size in enumerate(sizes) if size], [0] * len(sizes)
    exact = [float(count) for count in floor]
    rest = total - sum(count for i, count in enumerate(floor) if i not in used)
    for i, share in zip(used, shares([weights[i] for i in used], [sizes[i] for i in used], rest, least), strict=True):
        exact[i] = share
    check_rounded(shared(*case), exact)


@pytest.mark.parametrize(
    ("weights", "sizes", "total", "least", "wanted"),
    [
        ([1, 1, 1], [9, 9, 9], 7, 0, [3, 2, 2]),  # ties go to the first
        ([1, 1, 1], [9, 9, 9], 8, 0, [3, 3, 2]),
        ([0.1, 0.1, 0.1, 0.1, 0.1, 0.1], [5] * 6, 3, 0, [1, 1, 1, 0, 0, 0]),  # though tenths are not exact
        ([3, 1], [9, 9], 8, 0, [6, 2]),
        ([3, 1], [4, 9], 8, 0, [4, 4]),  # what does not fit goes to the others
        ([8, 4, 1], [3, 5, 9], 12, 0, [3, 5, 4]),  # twice
        ([0, 0, 0], [2, 4, 6], 6, 0, [1, 2, 3]),  # no weight at all: by size
        ([5, 0, 0], [2, 4, 8], 8, 0, [2, 2, 4]),  # and so where all that have weight are full
        ([1, 0], [9, 9], 6, 2, [4, 2]),
        ([1, 0, 0], [9, 1, 9], 6, 2, [3, 1, 2]),  # at least its size
        ([1, 0, 0], [9, 9, 9], 5, 2, [5, 0, 0]),  # too little for all: for none
        ([float("nan"), 1, float("inf")], [9, 9, 9], 4, 0, [0, 4, 0]),
        ([-1, 1], [9, 9], 4, 0, [0, 4]),
        ([1e308, 1e308, 1e308], [9, 9, 9], 6, 0, [2, 2, 2]),
        ([5e-324, 5e-324, 0], [9, 9, 9], 6, 0, [3, 3, 0]),
        ([], [], 0, 0, []),
        ([1], [0], 0, 3, [0]),
    ],
)
def test_by_hand(weights: list[float], sizes: list[int], total: int, least: int, wanted: list[int]):
    assert shared(weights, sizes, total, least) == wanted


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("least", [0, 1])
def test_frames_share_their_own_clips_total(seed: int, least: int):
    stream = random_prompt(seed).stream()
    shapes = ChunkShapes.of(stream)
    counts = Budget(retain_video=0.4, retain_audio=0.5).counts(shapes)
    weight = torch.rand(len(shapes), 2, generator=torch.Generator().manual_seed(seed))
    result = per_frame(counts, shapes, weight, least)
    assert torch.equal(result.audio, counts.audio)
    size = torch.stack([shapes.frame0, shapes.frame1], dim=1)
    kept = torch.stack([result.frame0, result.frame1], dim=1)
    for clip in shapes.clip.unique():
        mine = shapes.clip == clip
        total = int((counts.frame0 + counts.frame1)[mine].sum())
        wanted = shared(weight[mine].flatten().tolist(), size[mine].flatten().tolist(), total, least)
        assert kept[mine].flatten().tolist() == wanted
        assert sum(wanted) == total
    assert (kept <= size).all()
