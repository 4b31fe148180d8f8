"""DyCoke's first stage against a readable loop: whole frames, what changed, the floor, the audio's seconds, pairs."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.helpers.contract import check_counts
from tests.helpers.oracle import audio_of, check_shared, cosine, frames_of, shares, unlike_mean
from tests.helpers.prompts import in_one_batch, random_prompt, steady_prompt

from omnisift.budget import Budget
from omnisift.chunks import ChunkShapes
from omnisift.compressors.dycoke import DyCokeCompressor
from omnisift.compressors.paired import Paired
from omnisift.compressors.uniform import UniformCompressor
from omnisift.errors import CompressorError
from omnisift.tokens import Modality, Selection, TokenStream

HALF = Budget(retain_video=0.6, retain_audio=0.7)


def check_clip(stream: TokenStream, keep: torch.Tensor, steps: list[list[int]], total: int) -> bool:
    """One clip's frames or seconds; False where the total is below the whole ones."""
    embeds = stream.embeds.double()
    complete = sum(len(step) for step in steps[::4])
    if total < complete:
        return False
    others = [i for i in range(len(steps)) if i % 4]
    assert all(keep[step].all() for step in steps[::4])
    scores = []
    for i in others:
        step, before = steps[i], steps[i - 2] if i % 4 == 2 else steps[i - 1]
        if len(before) == len(step) or stream.modality[step[0]] == Modality.AUDIO:
            scores.append([1 - cosine(embeds[a], embeds[b]) for a, b in zip(step, before, strict=False)])
        else:
            scores.append(unlike_mean(embeds, step))
    sizes = [len(steps[i]) for i in others]
    exact = shares([float(size) for size in sizes], sizes, total - complete)
    check_shared(keep, [steps[i] for i in others], exact, scores)
    return True


def total_of(stream: TokenStream, budget: Budget, place: int) -> int:
    """The budget's total of this token's clip and modality."""
    shapes = ChunkShapes.of(stream)
    counts = budget.counts(shapes)
    kept = counts.audio if stream.modality[place] == Modality.AUDIO else counts.frame0 + counts.frame1
    return int(kept[shapes.clip == stream.clip[place]].sum())


def half(stream: TokenStream, budget: Budget, modality: Modality) -> Selection:
    method, counts = DyCokeCompressor(budget), budget.counts(ChunkShapes.of(stream))
    if modality == Modality.VIDEO:
        return method.select_video(stream, counts)
    return method.select_audio(stream, counts, Selection(torch.ones(len(stream), dtype=torch.bool)))


@pytest.mark.parametrize("seed", range(80))
@pytest.mark.parametrize("modality", [Modality.VIDEO, Modality.AUDIO])
def test_each_half_equals_the_loop_or_names_its_floor(seed: int, modality: Modality):
    stream = random_prompt(seed).stream()
    clips = frames_of(stream)
    if modality == Modality.AUDIO:
        clips = [[audio[i : i + 25] for i in range(0, len(audio), 25)] for audio in audio_of(stream)]
    try:
        keep = half(stream, HALF, modality).keep
    except CompressorError:
        keep = torch.ones(len(stream), dtype=torch.bool)
        floors = [sum(len(step) for step in steps[::4]) for steps in clips]
        assert any(total_of(stream, HALF, s[0][0]) < floor for s, floor in zip(clips, floors, strict=True))
        return
    assert keep[(stream.modality != modality) | (stream.chunk < 0)].all()
    assert all(check_clip(stream, keep, steps, total_of(stream, HALF, steps[0][0])) for steps in clips)


def cuts_something(seed: int, modality: Modality) -> bool:
    stream = random_prompt(seed).stream()
    try:
        return not half(stream, HALF, modality).keep.all()
    except CompressorError:
        return False


def test_the_random_prompts_are_not_all_below_the_floor():
    """Else the loop above would be compared with nothing."""
    for modality in (Modality.VIDEO, Modality.AUDIO):
        assert sum(cuts_something(seed, modality) for seed in range(80)) >= 5


@pytest.mark.parametrize(("frames", "audio"), [(4, 100), (7, 160), (9, 237), (2, 51), (12, 300)])
def test_both_halves_of_a_clip_equal_the_loop(frames: int, audio: int):
    stream = steady_prompt(frames, 6, audio, seed=frames).stream()
    keep = DyCokeCompressor(HALF)(stream).keep
    check_counts("dycoke", stream, keep, HALF)
    tokens = audio_of(stream)[0]
    seconds = [tokens[i : i + 25] for i in range(0, len(tokens), 25)]
    for steps in (frames_of(stream)[0], seconds):
        assert check_clip(stream, keep, steps, total_of(stream, HALF, steps[0][0]))


def test_the_last_group_and_an_odd_last_frame_are_cut_too():
    """Of seven frames, the released code would keep number 6 whole, and would lose it were it the second of a group."""
    stream = steady_prompt(7, 8, 0).stream()
    kept = [int(DyCokeCompressor(Budget(retain=0.5))(stream).keep[frame].sum()) for frame in frames_of(stream)[0]]
    assert kept == [8, 3, 3, 2, 8, 2, 2]


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (
            Budget(retain_video=0.25, retain_audio=0.9),
            r"keep 12 of 48 video tokens.*every fourth frame.*at least 16; raise retain_video, or",
        ),
        (
            Budget(retain_video=0.9, retain_audio=0.3),
            r"keep 45 of 150 audio tokens.*fourth second.*at least 50; raise retain_audio, or",
        ),
        (Budget(retain=0.2), r"at least 16; raise retain, or"),
    ],
)
def test_below_the_floor_is_an_error(budget: Budget, message: str):
    stream = steady_prompt(6, 8, 150).stream()
    with pytest.raises(CompressorError, match=message):
        DyCokeCompressor(budget)(stream)


def test_a_pair_asks_only_its_own_half():
    """The audio is far below its floor, which is no business of the video's half; and the other way round."""
    stream = steady_prompt(4, 8, 50).stream()
    quiet = Budget(retain_video=0.6, retain_audio=0.1)
    keep = Paired(DyCokeCompressor(quiet), UniformCompressor(quiet))(stream).keep
    check_counts("dycoke+uniform", stream, keep, quiet)
    dark = Budget(retain_video=0.1, retain_audio=0.8)
    check_counts("uniform+dycoke", stream, Paired(UniformCompressor(dark), DyCokeCompressor(dark))(stream).keep, dark)


def test_seconds_count_from_the_first_audio_in_a_chunk():
    """Audio before the first frame belongs to no chunk: it stays, and shifts nothing."""
    stream = steady_prompt(4, 4, 100).stream()
    early = dataclasses.replace(stream, chunk=stream.chunk.clone(), frame=stream.frame.clone())
    audio = audio_of(stream)[0]
    early.chunk[audio[:7]] = -1
    keep = half(early, HALF, Modality.AUDIO).keep
    assert keep[audio[:32]].all()
    assert not keep[audio[32:57]].all()


def test_audio_that_the_budget_keeps_stays_whole():
    stream = in_one_batch([steady_prompt(4, 4, 1), steady_prompt(4, 4, 60)]).stream()
    keep = DyCokeCompressor(Budget(retain_video=0.5, retain_audio=0.6))(stream).keep
    assert keep[(stream.sample == 0) & (stream.modality == Modality.AUDIO)].all()


def test_ties_keep_the_first():
    stream = steady_prompt(4, 6, 0).stream()
    flat = dataclasses.replace(stream, embeds=torch.ones_like(stream.embeds))
    keep = DyCokeCompressor(Budget(retain=0.5))(flat).keep  # 12 of 24: 6, and 2 of each other frame
    assert [keep[frame].tolist() for frame in frames_of(stream)[0][1:]] == [[True] * 2 + [False] * 4] * 3


def test_labels():
    assert DyCokeCompressor(HALF).label == "dycoke"
