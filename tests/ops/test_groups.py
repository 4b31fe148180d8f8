"""Ranking groups against readable keys, the best of each group, and padded windows of bounded size."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.prompts import empty, random_prompt, steady_prompt

from omnisift.budget import Budget
from omnisift.chunks import ChunkShapes, segment_of
from omnisift.ops import similarity
from omnisift.ops.groups import Groups, Scope, group
from omnisift.tokens import Modality, TokenStream

SOME = Budget(retain_video=0.4, retain_audio=0.6)
CPU = torch.device("cpu")


def keys(stream: TokenStream, scope: Scope, chunks: int = 1) -> list[object]:
    """Of every segment (first frame, second frame, audio of each chunk): a name of its group."""
    clip = ChunkShapes.of(stream).clip.tolist()
    result: list[object] = []
    for number in range(3 * len(clip)):
        chunk, audio = number // 3, number % 3 == 2
        window = (clip[chunk], (chunk - clip.index(clip[chunk])) // chunks)
        by: dict[Scope, object] = {
            Scope.FRAME: number,
            Scope.CHUNK: (window, audio),
            Scope.CLIP: (clip[chunk], audio),
            Scope.JOINT: window,
        }
        result.append(by[scope])
    return result


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    scope=st.sampled_from(Scope),
    modality=st.sampled_from([None, Modality.VIDEO, Modality.AUDIO]),
    chunks=st.integers(1, 4),
)
def test_groups_are_those_of_the_keys(seed: int, scope: Scope, modality: Modality | None, chunks: int):
    stream = random_prompt(seed).stream()
    counts = SOME.counts(ChunkShapes.of(stream))
    groups = group(stream, counts, scope, modality=modality, chunks=chunks)
    key, segment = keys(stream, scope, chunks), segment_of(stream)
    wanted: Counter[object] = Counter()
    for number, count in enumerate(counts.by_segment().tolist()):
        if modality is None or (modality == Modality.AUDIO) == (number % 3 == 2):
            wanted[key[number]] += count
    names: dict[int, object] = {}
    for place in range(len(stream)):
        taken = segment[place] >= 0 and modality in (None, int(stream.modality[place]))
        assert (groups.group[place] >= 0) == taken
        if taken:
            assert names.setdefault(int(groups.group[place]), key[segment[place]]) == key[segment[place]]
    assert len(set(names.values())) == len(names)
    assert {names[i]: int(groups.kept[i]) for i in names} == {name: wanted[name] for name in names.values()}
    assert (groups.kept <= groups.size).all()
    assert int(groups.kept.sum()) == sum(wanted.values())
    assert groups.size.tolist() == [int((groups.group == i).sum()) for i in range(len(groups.kept))]


def test_windows_of_chunks_never_cross_clips():
    """Clips of 1, 4 and 3 chunks: windows of two chunks start again with every clip."""
    prompt = steady_prompt(2, 2, 0)
    rows = [steady_prompt(frames, 2, 0) for frames in (2, 7, 6)]
    for name in ("embeds", "modality", "temporal"):
        setattr(prompt, name, torch.cat([getattr(row, name) for row in rows]))
    prompt.sample = torch.arange(3).repeat_interleave(torch.tensor([len(row.sample) for row in rows]))
    stream = prompt.stream()
    groups = group(stream, SOME.counts(ChunkShapes.of(stream)), Scope.CHUNK, modality=Modality.VIDEO, chunks=2)
    chunks = [sorted(set(stream.chunk[groups.group == i].tolist())) for i in range(len(groups.kept))]
    assert [some for some in chunks if some] == [[0], [1, 2], [3, 4], [5, 6], [7]]


def test_groups_of_nothing():
    for stream in (empty(), random_prompt(0, samples=1, clips=0).stream()):
        for scope in Scope:
            groups = group(stream, SOME.counts(ChunkShapes.of(stream)), scope)
            assert len(groups.kept) == len(groups.size) == 0
            assert groups.highest(torch.zeros(len(stream))).all()
            assert list(groups.windows(CPU)) == []


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), scope=st.sampled_from(Scope), levels=st.integers(1, 5))
def test_the_best_of_every_group_stay_and_ties_keep_the_first(seed: int, scope: Scope, levels: int):
    stream = random_prompt(seed).stream()
    groups = group(stream, SOME.counts(ChunkShapes.of(stream)), scope)
    scores = torch.randint(levels, (len(stream),), generator=torch.Generator().manual_seed(seed)).float()
    keep = groups.highest(scores)
    assert keep[groups.group < 0].all()
    for number, kept in enumerate(groups.kept.tolist()):
        places = torch.nonzero(groups.group == number).flatten().tolist()
        best = sorted(places, key=lambda place: -float(scores[place]))[:kept]  # a stable sort
        assert [place for place in places if keep[place]] == sorted(best)


def test_nan_ranks_last_and_infinity_where_it_belongs():
    groups = Groups(torch.tensor([0, 0, -1, 0, 0]), torch.tensor([2]))
    nan, inf = torch.nan, torch.inf
    assert groups.highest(torch.tensor([nan, -1e30, nan, nan, 0.0])).tolist() == [False, True, True, False, True]
    assert groups.highest(torch.tensor([nan, inf, -inf, 3.0, 4.0])).tolist() == [False, True, True, False, True]
    assert groups.highest(torch.full((5,), nan)).tolist() == [True, True, True, False, False]


@pytest.mark.parametrize(("width", "matrices"), [(0, 1), (0, 4), (3, 1), (64, 1)])
@pytest.mark.parametrize("cells", [1, 40, 300, 1 << 24])
@pytest.mark.parametrize("scope", Scope)
def test_windows_are_the_groups_in_bounded_rectangles(
    scope: Scope, cells: int, width: int, matrices: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(similarity, "MAX_ELEMENTS", cells)
    for seed in range(6):
        stream = random_prompt(seed).stream()
        groups = group(stream, SOME.counts(ChunkShapes.of(stream)), scope)
        seen: Counter[int] = Counter()
        widest = []
        for window in groups.windows(CPU, width=width, matrices=matrices):
            rows, columns = window.index.shape
            assert rows == 1 or rows * columns * max(width, matrices * columns) <= cells
            assert window.valid.any(dim=0).all()  # no column for nothing
            assert window.max_kept == int(window.kept.max())
            widest.append(columns)
            for place, valid, kept in zip(window.index, window.valid, window.kept.tolist(), strict=True):
                number = int(groups.group[place[0]])
                seen[number] += 1
                size = int(valid.sum())
                assert place[:size].tolist() == torch.nonzero(groups.group == number).flatten().tolist()
                assert valid.tolist() == [True] * size + [False] * (columns - size)
                assert (place[size:] == place[0]).all()
                assert kept == int(groups.kept[number])
        assert widest == sorted(widest, reverse=True)
        assert seen == Counter(torch.nonzero(groups.size).flatten().tolist())


def test_many_small_groups_share_few_blocks():
    """So that work in blocks costs few Python steps."""
    stream = steady_prompt(200, 4, 4000).stream()
    groups = group(stream, SOME.counts(ChunkShapes.of(stream)), Scope.CHUNK)
    assert len(list(groups.windows(CPU))) == 1
