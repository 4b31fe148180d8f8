"""EVS and DTD against a readable loop: changes over the clip, changes per frame, first frames, budgets, labels."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.helpers.contract import BUDGETS, check_counts
from tests.helpers.oracle import check_best, cosine, frames_of, unlike_mean, video_total
from tests.helpers.prompts import random_prompt, steady_prompt

from omnisift.budget import Budget
from omnisift.compressors.evs import EvsCompressor
from omnisift.compressors.random import RandomCompressor
from omnisift.errors import CompressorError
from omnisift.tokens import TokenStream


def loop_scores(stream: TokenStream, frames: list[list[int]], lift: float) -> list[list[float]]:
    """Of one clip, frame by frame."""
    embeds = stream.embeds.double()
    result = []
    for number, frame in enumerate(frames):
        if number == 0:
            result.append([2 * lift + score for score in unlike_mean(embeds, frame)])
        elif len(frame) != len(frames[number - 1]):
            result.append([lift + score for score in unlike_mean(embeds, frame)])
        else:
            pairs = zip(frame, frames[number - 1], strict=True)
            result.append([1 - cosine(embeds[i], embeds[j]) for i, j in pairs])
    return result


@pytest.mark.parametrize("seed", range(45))
def test_clip_mode_equals_the_loop(seed: int):
    stream, budget = random_prompt(seed).stream(), BUDGETS[seed % len(BUDGETS)]
    keep = EvsCompressor(budget)(stream).keep
    check_counts("evs", stream, keep, budget)
    for frames in frames_of(stream):
        scores = loop_scores(stream, frames, lift=10)
        places = [place for frame in frames for place in frame]
        flat = [score for frame in scores for score in frame]
        check_best(keep, places, flat, video_total(stream, budget, frames))


@pytest.mark.parametrize("seed", range(45))
def test_frame_mode_equals_the_loop(seed: int):
    stream, budget = random_prompt(seed).stream(), BUDGETS[0]
    keep = EvsCompressor(budget, mode="frame")(stream).keep
    check_counts("evs:mode=frame", stream, keep, budget)
    for frames in frames_of(stream):
        for frame, scores in zip(frames, loop_scores(stream, frames, lift=0), strict=True):
            check_best(keep, frame, scores, int(keep[frame].sum()))


def test_the_first_frame_is_whole_where_it_fits():
    stream = steady_prompt(6, 10, 0).stream()
    keep = EvsCompressor(Budget(retain=0.3))(stream).keep  # 18 of 60
    assert keep[frames_of(stream)[0][0]].all()


def test_opposite_tokens_do_not_overtake_the_first_frame():
    """A token turned round is as far from the one before as can be, and a constant first frame as near its mean."""
    stream = steady_prompt(2, 8, 0).stream()
    first, second = frames_of(stream)[0]
    embeds = stream.embeds.clone()
    embeds[first], embeds[second] = embeds[first[0]].clone(), -embeds[first[0]].clone()
    keep = EvsCompressor(Budget(retain=0.5))(dataclasses.replace(stream, embeds=embeds)).keep
    assert keep[first].all()
    assert not keep[second].any()


def test_a_still_frame_keeps_nothing_over_the_clip_and_its_share_per_frame():
    stream = steady_prompt(4, 8, 0).stream()
    frames = frames_of(stream)[0]
    embeds = stream.embeds.clone()
    embeds[frames[2]] = embeds[frames[1]]
    still = dataclasses.replace(stream, embeds=embeds)
    assert EvsCompressor(Budget(retain=0.5))(still).keep[frames[2]].sum() == 0
    assert EvsCompressor(Budget(retain=0.5), mode="frame")(still).keep[frames[2]].sum() == 4


def test_ties_keep_the_first():
    stream = steady_prompt(4, 6, 0).stream()
    flat = dataclasses.replace(stream, embeds=torch.ones_like(stream.embeds))
    keep = EvsCompressor(Budget(retain=0.5))(flat).keep
    assert keep[[place for frame in frames_of(stream)[0] for place in frame]].tolist() == [True] * 12 + [False] * 12


def test_labels_and_options():
    budget = Budget(retain=0.5)
    assert EvsCompressor(budget).label == "evs"
    assert EvsCompressor(budget, mode="frame").label == "evs-frame"
    assert EvsCompressor(budget, RandomCompressor(budget), mode="frame").label == "evs-frame+random"
    with pytest.raises(CompressorError, match="clip or frame, got 'chunk'"):
        EvsCompressor(budget, mode="chunk")
