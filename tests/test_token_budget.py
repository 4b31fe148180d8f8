"""Budgets of a number of tokens: exact, monotone, spread over time, and the same for a clip alone and in a batch."""

from __future__ import annotations

import itertools
import random
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from omnisift.budget import MOST_TOKENS, Budget
from omnisift.chunks import ChunkShapes
from omnisift.config import CompressionConfig
from omnisift.errors import BudgetError

Chunk = tuple[int, int, int]


def shapes_of(*clips: list[Chunk]) -> ChunkShapes:
    """The chunks of clips, each chunk as the sizes of its frames and its audio."""
    rows = torch.tensor([chunk for clip in clips for chunk in clip], dtype=torch.int64).view(-1, 3)
    clip = torch.tensor([number for number, clip in enumerate(clips) for _ in clip], dtype=torch.int64)
    return ChunkShapes(*rows.unbind(dim=1), clip=clip)


def drawn_clip(draw: random.Random) -> list[Chunk]:
    """A clip as they occur, or with frames of unequal sizes, single audio tokens, no audio, or an odd last frame."""
    kind, patches = draw.randrange(4), draw.choice([1, 4, 16, 60])
    chunks = [(patches, patches, draw.choice([0, 1, 5, 50]) if kind else 25) for _ in range(draw.randint(1, 30))]
    if kind == 2:
        chunks = [(draw.randint(1, 40), draw.randint(0, 40), draw.randint(0, 60)) for _ in chunks]
    if kind == 3:
        chunks = [(frame0, frame1, 0) for frame0, frame1, _ in chunks]
    first, _, audio = chunks[-1]
    return [*chunks[:-1], (first, 0, audio)] if draw.random() < 0.3 else chunks


def floor_of(clip: list[Chunk]) -> int:
    return sum(size > 0 for chunk in clip for size in chunk)


def total_of(clip: list[Chunk]) -> int:
    return sum(map(sum, clip))


@pytest.mark.parametrize("seed", range(40))
def test_number_is_exact_and_the_same_in_a_batch(seed: int) -> None:
    draw = random.Random(seed)
    clips = [drawn_clip(draw) for _ in range(4)]
    together = shapes_of(*clips)
    tokens = draw.randint(1, draw.choice([max(map(floor_of, clips)), max(map(total_of, clips)) + 3]))
    counts = Budget(tokens=tokens).counts(together).by_segment().view(-1, 3)
    alone = [Budget(tokens=tokens).counts(shapes_of(clip)).by_segment().view(-1, 3) for clip in clips]
    assert torch.equal(counts, torch.cat(alone))
    for clip, kept in zip(clips, alone, strict=True):
        size = torch.tensor(clip)
        assert int(kept.sum()) == min(tokens, total_of(clip))
        assert bool((kept <= size).all())
        enough = tokens >= floor_of(clip)
        assert bool((kept >= size.clamp(max=1)).all() if enough else (kept <= 1).all())


@pytest.mark.parametrize("seed", range(12))
def test_larger_number_takes_from_no_segment(seed: int) -> None:
    """Except where the split between video and audio changes, which happens at most once per clip."""
    clip = drawn_clip(random.Random(seed))
    shapes, total = shapes_of(clip), total_of(clip)
    video = int((shapes.frame0 + shapes.frame1).sum())
    rows, splits = [], []
    for tokens in range(1, total + 1):
        rows.append(Budget(tokens=tokens).counts(shapes).by_segment())
        rates = Budget(tokens=tokens).rates(video, total - video)
        splits.append(rates[0] == rates[1])
    fell = [bool((after < before).any()) for before, after in itertools.pairwise(rows)]
    changed = [before and not after for before, after in itertools.pairwise(splits)]
    assert not any(fall and not change for fall, change in zip(fell, changed, strict=True))
    assert sum(changed) <= 1


@given(st.integers(1, 12), st.integers(1, 50), st.integers(0, 50), st.data())
def test_number_is_exact_at_every_size(chunks: int, patches: int, audio: int, data: st.DataObject) -> None:
    clip = [(patches, patches, audio)] * chunks
    tokens = data.draw(st.integers(1, total_of(clip)))
    assert int(Budget(tokens=tokens).counts(shapes_of(clip)).by_segment().sum()) == tokens


def test_equal_frames_differ_by_one_and_the_extra_tokens_are_spread_over_time() -> None:
    counts = Budget(tokens=64 * 3 + 16).counts(shapes_of([(20, 20, 0)] * 32)).by_segment().view(-1, 3)[:, :2].flatten()
    assert sorted(set(counts.tolist())) == [3, 4]
    assert counts.view(16, 4).sum(dim=1).tolist() == [13] * 16  # one in every four frames


def test_split_is_that_of_the_overall_ratio() -> None:
    shapes, budget = shapes_of([(320, 320, 50)] * 10), Budget(tokens=1725)  # a quarter
    counts = budget.counts(shapes)
    assert budget.rates(6400, 500) == Budget(retain=0.25).rates(6400, 500)
    assert int(counts.audio.sum()) == 250
    assert int((counts.frame0 + counts.frame1).sum()) == 1475


def test_fewer_tokens_than_segments_are_spread_over_time() -> None:
    """An hour at two images per second has 3,600 frames and 1,800 chunks of audio."""
    hour = shapes_of([(320, 320, 50)] * 1800)
    counts = Budget(tokens=4096).counts(hour).by_segment().view(-1, 3)
    assert counts.unique().tolist() == [0, 1]
    assert (int(counts[:, :2].sum()), int(counts[:, 2].sum())) == (2731, 1365)  # two thirds of the segments are frames
    minutes = counts.view(60, 30, 3).sum(dim=1)
    assert int((minutes.max(dim=0).values - minutes.min(dim=0).values).max()) <= 2
    assert Budget(tokens=5400).counts(hour).by_segment().tolist() == [1] * 5400


def test_the_shares_of_few_tokens_are_those_of_the_segments() -> None:
    shapes = shapes_of([(20, 20, 25)] * 30)
    for tokens, (video, audio) in {1: (1, 0), 2: (1, 1), 3: (2, 1), 50: (33, 17), 89: (59, 30)}.items():
        counts = Budget(tokens=tokens).counts(shapes)
        assert (int((counts.frame0 + counts.frame1).sum()), int(counts.audio.sum())) == (video, audio)
    assert Budget(tokens=90).counts(shapes).by_segment().tolist() == [1] * 90
    # A chunk of frames or of audio that a clip does not have takes none.
    assert Budget(tokens=1).counts(shapes_of([(0, 0, 9)] * 3)).by_segment().sum() == 1
    assert Budget(tokens=2).counts(shapes_of([(4, 0, 0)] * 3)).frame0.tolist() == [1, 0, 1]


@given(st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=1, max_size=20), st.data())
def test_number_is_exact_and_monotone_for_any_shapes(clip: list[Chunk], data: st.DataObject) -> None:
    """Up to one token per segment no exception: every segment that has one keeps it."""
    shapes, floor = shapes_of(clip), floor_of(clip)
    rows = [Budget(tokens=tokens).counts(shapes).by_segment() for tokens in range(1, floor + 2)]
    for tokens, row in enumerate(rows, start=1):
        assert int(row.sum()) == min(tokens, total_of(clip))
        assert bool(((row >= 0) & (row <= torch.tensor(clip).flatten())).all())
    assert all(bool((after >= before).all()) for before, after in itertools.pairwise(rows[: max(1, floor)]))
    tokens = data.draw(st.integers(1, total_of(clip) + 2))
    assert int(Budget(tokens=tokens).counts(shapes).by_segment().sum()) == min(tokens, total_of(clip))


def test_clip_with_no_more_keeps_everything() -> None:
    shapes = shapes_of([(3, 2, 1), (4, 0, 0)])
    assert Budget(tokens=10).counts(shapes).by_segment().tolist() == [3, 2, 1, 4, 0, 0]
    assert Budget(tokens=MOST_TOKENS).counts(shapes).by_segment().tolist() == [3, 2, 1, 4, 0, 0]
    assert len(Budget(tokens=10).counts(shapes_of([])).audio) == 0


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "64", float("nan"), float("inf"), 10**400, 2**53 + 1, [64]])
def test_number_must_be_whole(value: object) -> None:
    with pytest.raises(BudgetError) as caught:
        Budget(tokens=value)  # type: ignore[arg-type]
    assert re.fullmatch(r"tokens is the number of .* a whole number from 1 to 2\*\*53; got .{1,80}", str(caught.value))


@pytest.mark.parametrize("others", [{"retain": 0.5}, {"retain_video": 0.5}, {"retain_video": 0.5, "retain_audio": 0.5}])
def test_number_excludes_fractions(others: dict[str, float]) -> None:
    for make in (Budget, Budget.from_options, lambda **given: CompressionConfig(**given).budget):
        with pytest.raises(BudgetError, match="tokens was given with retain"):
            make(tokens=64, **others)


def test_number_in_words() -> None:
    budget = Budget(tokens=4096.0)  # type: ignore[arg-type]
    assert budget == Budget(tokens=4096) == CompressionConfig(tokens=4096).budget
    assert (budget.words, repr(budget), budget.keeps_all) == ("4096 tokens", "Budget(tokens=4096)", False)
    assert Budget(tokens=1).words == "1 token"
