"""Subtitles in budgets: their share, what they leave to video and audio, and counts of every chunk."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from omnisift.budget import Budget, Counts
from omnisift.chunks import ChunkShapes
from omnisift.errors import BudgetError
from omnisift.exact_counts import exact_text

Chunk = tuple[int, int, int, int]
"""Tokens of both frames, of the audio and of the subtitles."""
SIZES = st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 12))
CLIPS = st.lists(SIZES, min_size=1, max_size=12)
SHARES = st.one_of(st.none(), st.floats(0.01, 1))


def shapes_of(*clips: list[Chunk]) -> ChunkShapes:
    rows = torch.tensor([chunk for clip in clips for chunk in clip], dtype=torch.int64).view(-1, 4)
    clip = torch.tensor([number for number, clip in enumerate(clips) for _ in clip], dtype=torch.int64)
    return ChunkShapes(*rows[:, :3].unbind(dim=1), clip=clip, text=rows[:, 3])


def table(counts: Counts | ChunkShapes) -> torch.Tensor:
    """[C, 4]."""
    return torch.stack([counts.frame0, counts.frame1, counts.audio, counts.text], dim=1)


def without_text(shapes: ChunkShapes) -> ChunkShapes:
    return dataclasses.replace(shapes, text=torch.zeros_like(shapes.text))


def test_shapes_and_counts_have_no_text_unless_it_is_given() -> None:
    one = torch.tensor([3])
    assert ChunkShapes(one, one, one, one * 0).text.tolist() == [0]
    assert Counts(one, one, one).text.tolist() == [0]
    assert Counts(one, one, one, one).text.tolist() == [3]


def test_text_keeps_all_and_video_and_audio_share_the_rest() -> None:
    """R is a quarter of 2,250 tokens: 562.5, of which 60 are text; 502.5 of 2,190 are 0.22945 of video and audio."""
    shapes = shapes_of([(320, 320, 50, 20)] * 2 + [(320, 320, 110, 20)] + [(0, 0, 0, 0)])
    total = 0.25 * int(table(shapes).sum())
    left = (total - 60) / (1920 + 210)
    counts, same = Budget(retain=0.25).counts(shapes), Budget(retain=left).counts(without_text(shapes))
    assert counts.text.tolist() == [20, 20, 20, 0]
    assert table(counts)[:, :3].tolist() == table(same)[:, :3].tolist()
    assert Budget(retain=0.25).rates(1920, 210, 60) == pytest.approx(Budget(retain=left).rates(1920, 210))
    assert Budget(retain=0.25).text_rate(2130, 60) == 1


def test_text_gets_half_of_the_total_at_most() -> None:
    """A tenth of 400 tokens is 40: 20 are text, and 20 of 200 are video."""
    shapes = shapes_of([(50, 50, 0, 100)] * 2)
    counts = Budget(retain=0.1).counts(shapes)
    assert table(counts).tolist() == [[5, 5, 0, 10]] * 2
    assert Budget(retain=0.1).text_rate(200, 200) == pytest.approx(0.1)
    assert table(Budget(tokens=40).counts(shapes)).tolist() == [[5, 5, 0, 10]] * 2
    assert Budget(tokens=40).text_rate(200, 200) == pytest.approx(0.1)
    # Half is no share of its own: less stays where retain_text says so.
    assert table(Budget(retain=0.1, retain_text=0.04).counts(shapes)).tolist() == [[8, 8, 0, 4]] * 2


def test_a_small_clip_with_much_text_keeps_everything_at_1() -> None:
    shapes = shapes_of([(2, 2, 1, 40)])
    for budget in (Budget(retain=1), Budget(tokens=45), Budget(tokens=10_000), Budget(1, retain_text=1)):
        assert table(budget.counts(shapes)).tolist() == table(shapes).tolist()
    # What video and audio can't use goes to the text: 40 of 45 tokens, of which video and audio are 5.
    assert table(Budget(tokens=40).counts(shapes)).tolist() == [[2, 2, 1, 35]]
    assert table(Budget(retain=40 / 45).counts(shapes)).tolist() == [[2, 2, 1, 35]]
    # A number is met even if retain_text alone would keep less; a ratio is not.
    assert table(Budget(tokens=40, retain_text=0.25).counts(shapes)).tolist() == [[2, 2, 1, 35]]
    assert table(Budget(retain=40 / 45, retain_text=0.25).counts(shapes)).tolist() == [[2, 2, 1, 10]]


def test_the_pair_keeps_the_fraction_of_every_chunks_text_without_a_limit() -> None:
    shapes = shapes_of([(10, 10, 10, 100), (10, 10, 10, 1), (10, 10, 10, 3)])
    budget = Budget(retain_video=0.1, retain_audio=0.1, retain_text=0.5)
    assert table(budget.counts(shapes)).tolist() == [[1, 1, 1, 50], [1, 1, 1, 1], [1, 1, 1, 2]]
    assert budget.text_rate(90, 104) == 0.5
    assert Budget(retain_video=0.1, retain_audio=0.1).counts(shapes).text.tolist() == [100, 1, 3]


def test_one_token_of_a_chunk_stays_at_any_ratio() -> None:
    shapes = shapes_of([(10, 10, 10, n) for n in (1, 2, 50)])
    assert Budget(retain=0.3, retain_text=1e-9).counts(shapes).text.tolist() == [1, 1, 1]


def test_each_clip_has_its_own_split() -> None:
    """The second clip has no subtitles, and keeps what it keeps alone."""
    first, second = [(50, 50, 20, 30)] * 3, [(50, 50, 20, 0)] * 3
    for budget in (Budget(retain=0.3), Budget(tokens=90), Budget(tokens=90, retain_text=0.2)):
        together = table(budget.counts(shapes_of(first, second)))
        alone = [table(budget.counts(shapes_of(clip))) for clip in (first, second)]
        assert together.tolist() == torch.cat(alone).tolist()
        assert (
            together[3:].tolist()
            == table(dataclasses.replace(budget, retain_text=0.5).counts(shapes_of(second))).tolist()
        )


def test_less_than_one_token_per_segment_starves_neither() -> None:
    """An hour: 3,600 frames and 1,800 chunks of audio and of text are 7,200 segments."""
    hour = shapes_of([(320, 320, 50, 12)] * 1800)
    for tokens, (media, text) in {7200: (5400, 1800), 4096: (3072, 1024), 4: (3, 1), 2: (1, 1), 1: (1, 0)}.items():
        counts = table(Budget(tokens=tokens).counts(hour))
        assert (int(counts[:, :3].sum()), int(counts[:, 3].sum())) == (media, text)
        assert counts.max() == 1
    # A little more than one token each: video and audio keep theirs.
    assert (table(Budget(tokens=9000).counts(hour)).min(dim=0).values >= 1).all()


def test_the_text_of_a_number_is_spread_over_the_chunks_in_proportion() -> None:
    shapes = shapes_of([(40, 40, 20, n) for n in (8, 16, 0, 24)])
    assert Budget(tokens=100, retain_text=0.5).counts(shapes).text.tolist() == [4, 8, 0, 12]


@given(CLIPS, SHARES, st.data())
def test_a_number_is_exact_with_text(clip: list[Chunk], text: float | None, data: st.DataObject) -> None:
    shapes = shapes_of(clip)
    size, total = table(shapes), int(table(shapes).sum())
    tokens = data.draw(st.integers(1, total + 2))
    kept = table(Budget(tokens=tokens, retain_text=text).counts(shapes))
    assert int(kept.sum()) == min(tokens, total)
    assert bool(((kept >= 0) & (kept <= size)).all())
    if tokens >= int((size > 0).sum()):
        assert bool((kept >= size.clamp(max=1)).all())
    # At most half, unless video and audio keep everything.
    assert 2 * int(kept[:, 3].sum()) <= tokens or bool((kept[:, :3] == size[:, :3]).all())
    # No more than its fraction, unless video and audio keep everything, but one of each chunk.
    most = max(int(size[:, 3].sum() * (text or 1) + 0.5), int((size[:, 3] > 0).sum()))
    assert int(kept[:, 3].sum()) <= most or bool((kept[:, :3] == size[:, :3]).all())


@settings(max_examples=60, deadline=None)
@given(CLIPS, SHARES)
def test_a_larger_number_takes_no_text_and_no_video_and_audio_together(clip: list[Chunk], text: float | None) -> None:
    shapes = shapes_of(clip)
    rows = [table(Budget(tokens=n, retain_text=text).counts(shapes)) for n in range(1, int(table(shapes).sum()) + 2)]
    for before, after in itertools.pairwise(rows):
        assert bool((after[:, 3] >= before[:, 3]).all())
        assert int(after[:, :3].sum()) >= int(before[:, :3].sum())


@settings(max_examples=60, deadline=None)
@given(CLIPS, SHARES)
@example([(1, 0, 3, 0), (1, 0, 3, 0), (1, 5, 3, 0), (9, 9, 4, 0), (9, 9, 9, 0)], None)  # 44 video and 22 audio tokens
def test_a_larger_number_takes_from_no_segment_but_where_the_split_changes(
    clip: list[Chunk], text: float | None
) -> None:
    """As without text, where video and audio stop to keep the same ratio, once."""
    shapes = shapes_of(clip)
    size = table(shapes)
    n_video, n_audio, n_text = int(size[:, :2].sum()), int(size[:, 2].sum()), int(size[:, 3].sum())
    least = int((size > 0).sum())
    assume(n_video + n_audio + n_text > least)
    rows, splits = [], []
    for tokens in range(least, n_video + n_audio + n_text + 1):
        budget = Budget(tokens=tokens, retain_text=text)
        rows.append(table(budget.counts(shapes)))
        # The rule of the split, for what the text leaves.
        left = tokens - int(exact_text(shapes, tokens, text or 1.0)[0])
        video, audio = Budget(tokens=left).rates(n_video, n_audio)
        splits.append(video == audio)
    fell = [bool((after < before).any()) for before, after in itertools.pairwise(rows)]
    changed = [before and not after for before, after in itertools.pairwise(splits)]
    assert not any(fall and not change for fall, change in zip(fell, changed, strict=True))


@given(CLIPS, st.floats(0.01, 1), SHARES)
def test_a_ratio_is_met_up_to_rounding(clip: list[Chunk], retain: float, text: float | None) -> None:
    shapes = shapes_of([(f0, f0, a, x) for f0, _, a, x in clip])
    size, kept = table(shapes), table(Budget(retain=retain, retain_text=text).counts(shapes))
    n_media, n_text = int(size[:, :3].sum()), int(size[:, 3].sum())
    total = retain * (n_media + n_text)
    wanted = min((text or 1) * n_text, max(total / 2, total - n_media))
    # Each chunk rounds up, by less than one.
    assert wanted - 1e-6 <= int(kept[:, 3].sum()) < wanted + len(clip) + 1e-6
    assert bool(((kept >= size.clamp(max=1)) & (kept <= size))[:, 3].all())
    rate = min(1.0, (total - wanted) / n_media)
    same = table(Budget(retain=max(rate, 1e-12)).counts(without_text(shapes)))
    assert bool((kept[:, :3] - same[:, :3]).abs().le(1).all())  # rounding of rates in the last digit


@given(CLIPS, st.floats(0.01, 1), st.integers(1, 60), SHARES)
def test_without_text_nothing_changes(clip: list[Chunk], retain: float, tokens: int, text: float | None) -> None:
    shapes = without_text(shapes_of(clip))
    for budget in (Budget(retain), Budget(tokens=tokens), Budget(retain_video=retain, retain_audio=retain)):
        with_share = dataclasses.replace(budget, retain_text=text)
        assert table(with_share.counts(shapes)).tolist() == table(budget.counts(shapes)).tolist()
        assert with_share.rates(40, 20, 0) == budget.rates(40, 20)
        assert with_share.text_rate(60, 0) == 1


@pytest.mark.parametrize("value", [0, -0.1, 1.5, True, "0.5", float("nan")])
def test_an_invalid_fraction_of_text_is_refused_by_name(value: object) -> None:
    for way in ({"retain": 0.5}, {"tokens": 9}, {"retain_video": 0.5, "retain_audio": 0.5}):
        with pytest.raises(BudgetError, match=r"retain_text is the fraction kept and must be in \(0, 1\], got "):
            Budget(**way, retain_text=value)  # type: ignore[arg-type]
    with pytest.raises(BudgetError, match=r"'50%'; did you mean 0\.5\?"):
        Budget(0.5, retain_text="50%")  # type: ignore[arg-type]


def test_a_budget_shows_its_text() -> None:
    assert Budget(0.25, retain_text=0.5).words == "0.25, text 0.5"
    assert Budget(tokens=64, retain_text=0.5).words == "64 tokens, text 0.5"
    assert Budget(retain_video=0.2, retain_audio=0.4, retain_text=1).words == "video 0.2, audio 0.4, text 1"
    assert repr(Budget(0.25, retain_text=0.5)) == "Budget(retain=0.25, retain_text=0.5)"
    assert Budget(1, retain_text=1).keeps_all
    assert not Budget(1, retain_text=0.5).keeps_all
    assert Budget.from_options(retain_text=0.5) == Budget(0.25, retain_text=0.5)
    assert Budget.from_options(tokens=9, retain_text=0.5) == Budget(tokens=9, retain_text=0.5)
    with pytest.raises(BudgetError, match="a budget needs retain"):
        Budget(retain_text=0.5)
