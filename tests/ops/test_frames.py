"""Frames in order of time, the same place in another frame, means and cosines: all against loops."""

from __future__ import annotations

import pytest
import torch
from tests.helpers.oracle import cosine, frames_of
from tests.helpers.prompts import empty, random_prompt

from omnisift.ops import similarity
from omnisift.ops.frames import Frames, chunk_distance, distinctiveness, of_modality
from omnisift.ops.segments import group_means
from omnisift.ops.similarity import pair_cosine, row_cosine
from omnisift.tokens import Modality

SEEDS = range(25)


def test_the_prompts_have_clips_and_frames_of_unequal_size():
    many = [Frames.of(random_prompt(seed).stream()) for seed in SEEDS]
    assert any(len(f.clip.unique()) > 2 for f in many)
    assert any((f.size[1:] != f.size[:-1])[f.clip[1:] == f.clip[:-1]].any() for f in many)


@pytest.mark.parametrize("seed", SEEDS)
def test_frames_are_numbered_by_clip_and_time(seed: int):
    stream = random_prompt(seed).stream()
    result, clips = Frames.of(stream), frames_of(stream)
    number = 0
    for clip, frames in enumerate(clips):
        for rank, places in enumerate(frames):
            assert result.number[places].tolist() == [number] * len(places)
            assert result.place[places].tolist() == list(range(len(places)))
            start, size = int(result.start[number]), int(result.size[number])
            assert result.order[start : start + size].tolist() == places
            assert (int(result.clip[number]), int(result.rank[number])) == (clip, rank)
            first = places[0]
            assert int(result.cell[number]) == 2 * int(stream.chunk[first]) + int(stream.frame[first])
            assert int(stream.frame[first]) == rank % 2
            number += 1
    assert len(result) == number
    others = stream.frame < 0
    assert (result.number[others] == -1).all()
    assert (result.place[others] == -1).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("step", [-2, -1, 0, 1, 3, 1000, None])
def test_neighbour_is_the_same_place_in_the_same_clip(seed: int, step: int | None):
    stream = random_prompt(seed).stream()
    result = Frames.of(stream)
    steps = torch.arange(len(result)) % 5 - 2 if step is None else torch.full((len(result),), step)
    wanted = [-1] * len(stream)
    number = 0
    for frames in frames_of(stream):
        for rank, places in enumerate(frames):
            other = rank + int(steps[number])
            if 0 <= other < len(frames) and len(frames[other]) == len(places):
                for mine, theirs in zip(places, frames[other], strict=True):
                    wanted[mine] = theirs
            number += 1
    assert result.neighbour(steps if step is None else step).tolist() == wanted


@pytest.mark.parametrize("seed", SEEDS)
def test_the_partner_of_a_second_frame_is_the_first(seed: int):
    stream = random_prompt(seed).stream()
    wanted = [-1] * len(stream)
    for frames in frames_of(stream):
        for first, second in zip(frames[::2], frames[1::2], strict=False):
            if len(first) == len(second):
                for mine, theirs in zip(second, first, strict=True):
                    wanted[mine] = theirs
    assert Frames.of(stream).partner().tolist() == wanted


@pytest.mark.parametrize("seed", range(8))
def test_distances_in_a_chunk_equal_the_loop(seed: int):
    stream = random_prompt(seed).stream()
    partner, result = Frames.of(stream).partner(), chunk_distance(stream)
    assert torch.equal(result.isnan(), stream.chunk < 0)
    assert torch.equal(distinctiveness(stream).nan_to_num(-1), result.clamp(min=0).nan_to_num(-1))
    for place in torch.nonzero(stream.chunk >= 0).flatten().tolist():
        same = (stream.chunk == stream.chunk[place]) & (stream.frame == stream.frame[place])
        other = stream.embeds[same & (stream.modality == stream.modality[place])].mean(dim=0)
        if partner[place] >= 0:
            other = stream.embeds[partner[place]]
        assert float(result[place]) == pytest.approx(1 - cosine(stream.embeds[place], other), abs=1e-5)


@pytest.mark.parametrize("block", [1, 1 << 24])
@pytest.mark.parametrize("seed", range(8))
def test_means_and_cosines_equal_the_loop(seed: int, block: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(similarity, "MAX_ELEMENTS", block)
    stream = random_prompt(seed).stream()
    stream.embeds[::9] = 0
    frames = Frames.of(stream)
    embeds = stream.embeds.double()
    means = group_means(stream.embeds, frames.number, len(frames))
    before = frames.neighbour(-1)
    in_pair, in_frame = pair_cosine(stream.embeds, before), row_cosine(stream.embeds, means, frames.number)
    for number, places in enumerate(place for clip in frames_of(stream) for place in clip):
        mean = embeds[places].mean(dim=0)
        torch.testing.assert_close(means[number].double(), mean, rtol=1e-5, atol=1e-6)
        for place in places:
            assert float(in_frame[place]) == pytest.approx(cosine(embeds[place], mean), abs=1e-5)
    for place in range(len(stream)):
        assert bool(in_frame[place].isnan()) == (int(frames.number[place]) < 0)
        other = int(before[place])
        wanted = cosine(embeds[place], embeds[other]) if other >= 0 else torch.nan
        assert float(in_pair[place]) == pytest.approx(wanted, abs=1e-5, nan_ok=True)


def test_defaults_and_zero_vectors():
    embeds = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    assert pair_cosine(embeds, torch.tensor([1, 2, -1]), default=7.0).tolist() == [0, 1, 7]
    assert row_cosine(embeds, -embeds[1:2], torch.tensor([0, 0, -1]), default=7.0).tolist() == [0, -1, 7]


def test_short_floats_are_compared_in_float32():
    stream = random_prompt(3).stream()
    short, frames = stream.embeds.bfloat16(), Frames.of(stream)
    means = [group_means(some, frames.number, len(frames)) for some in (short, short.float())]
    assert means[0].dtype is torch.float32
    assert torch.equal(*means)
    same = [pair_cosine(some, frames.neighbour(-1)).nan_to_num(nan=9.0) for some in (short, short.float())]
    assert torch.equal(*same)


@pytest.mark.parametrize("seed", range(8))
def test_a_table_has_every_frame_in_its_chunk(seed: int):
    stream = random_prompt(seed).stream()
    frames, chunks = Frames.of(stream), int(stream.chunk.max()) + 1
    table = frames.table(torch.arange(1, len(frames) + 1), chunks)
    assert table.shape == (chunks, 2)
    for place in torch.nonzero(stream.frame >= 0).flatten():
        assert table[stream.chunk[place], stream.frame[place]] == frames.number[place] + 1
    assert int((table > 0).sum()) == len(frames)


def test_nothing_has_no_frames():
    for stream in (empty(), random_prompt(0, samples=1, clips=0).stream()):
        frames = Frames.of(stream)
        assert len(frames) == 0
        assert frames.neighbour(-1).tolist() == [-1] * len(stream)
        assert frames.partner().tolist() == [-1] * len(stream)
        assert frames.table(torch.zeros(0), 0).shape == (0, 2)


@pytest.mark.parametrize("modality", [Modality.VIDEO, Modality.AUDIO])
def test_of_a_modality_only_what_may_be_dropped(modality: Modality):
    early = 0
    for seed in SEEDS:
        stream = random_prompt(seed).stream()
        result = of_modality(stream, modality)
        assert result.tolist() == [
            kind == modality and chunk >= 0
            for kind, chunk in zip(stream.modality.tolist(), stream.chunk.tolist(), strict=True)
        ]
        early += int(((stream.modality == modality) & ~result).sum())
    assert (early > 0) == (modality == Modality.AUDIO)  # audio before the first frame
