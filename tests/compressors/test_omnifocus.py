"""OmniFocus against a readable loop."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.helpers.contract import BUDGETS, SPLIT, Watch, check_counts
from tests.helpers.oracle import highest, rounded_cosine, windows_of
from tests.helpers.prompts import random_prompt, regular_prompt, steady_prompt

from omnisift.budget import Budget
from omnisift.compressors.omnifocus import OmniFocusCompressor
from omnisift.tokens import Modality, TokenStream


def loop(stream: TokenStream, places: list[int], kept: int) -> set[int]:
    """The kept tokens of one modality of a chunk."""
    x, chunk = stream.embeds, stream.chunk[places[0]]
    others = (stream.chunk == chunk) & (stream.modality != stream.modality[places[0]])
    associated: list[int] = []
    if others.any():
        mean = x[others].mean(dim=0)
        associated = [places[p] for p in highest([rounded_cosine(x[i], mean) for i in places], kept // 2)]
    rest = [i for i in places if i not in associated]
    mean = x[places].mean(dim=0)
    peaks = highest([1 - rounded_cosine(x[i], mean) for i in rest], kept - len(associated))
    return {*associated, *(rest[p] for p in peaks)}


@pytest.mark.parametrize("seed", range(40))
def test_equals_the_loop(seed: int):
    stream, budget = random_prompt(seed).stream(), BUDGETS[seed % len(BUDGETS)]
    keep = OmniFocusCompressor(budget)(stream).keep
    check_counts("omnifocus", stream, keep, budget)
    for _, places, kept in windows_of(stream, budget):
        assert {place for place in places if keep[place]} == loop(stream, places, kept)


def test_half_fits_the_sound_and_half_stands_out():
    """Eight patches and four sounds: one patch like the sound, one that is like nothing else."""
    stream = steady_prompt(2, 4, 4).stream()
    video = torch.nonzero(stream.modality == Modality.VIDEO).flatten()
    embeds, axes = torch.zeros_like(stream.embeds), torch.eye(16)
    embeds[video] = axes[0] + 0.1 * axes[1]
    embeds[video[2]] = axes[0] + axes[5]
    embeds[video[6]] = axes[3]
    embeds[stream.modality == Modality.AUDIO] = axes[5]
    keep = OmniFocusCompressor(Budget(retain_video=0.25, retain_audio=0.5))(
        dataclasses.replace(stream, embeds=embeds)
    ).keep
    assert [place for place, token in enumerate(video.tolist()) if keep[token]] == [2, 6]


def test_without_sound_the_peaks_stay():
    """Where a chunk has no audio, the count is that of the peaks."""
    stream = steady_prompt(2, 4, 0).stream()
    video = torch.nonzero(stream.modality == Modality.VIDEO).flatten()
    embeds, axes = torch.zeros_like(stream.embeds), torch.eye(16)
    embeds[video] = axes[0]
    embeds[video[3]], embeds[video[5]] = axes[3], axes[4]
    keep = OmniFocusCompressor(Budget(retain=0.25))(dataclasses.replace(stream, embeds=embeds)).keep
    assert [place for place, token in enumerate(video.tolist()) if keep[token]] == [3, 5]


def test_equal_tokens_keep_the_first():
    stream = steady_prompt(2, 9, 50).stream()
    keep = OmniFocusCompressor(SPLIT)(dataclasses.replace(stream, embeds=torch.ones_like(stream.embeds))).keep
    for _, places, kept in windows_of(stream, SPLIT):
        assert keep[places].tolist() == [True] * kept + [False] * (len(places) - kept)


def test_steps_do_not_grow_with_the_number_of_chunks():
    seen = []
    for seconds in (64, 320):
        with Watch() as watch, torch.no_grad():
            OmniFocusCompressor(SPLIT)(regular_prompt(seconds).stream())
        seen.append(watch.steps)
    assert seen[0] == seen[1]


def test_the_label_says_that_the_question_is_left_out():
    assert OmniFocusCompressor(SPLIT).label == "omnifocus-no-question"
