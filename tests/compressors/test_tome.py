"""ToMe against a readable loop."""

from __future__ import annotations

import pytest
import torch
from tests.helpers.contract import BUDGETS, SPLIT, Watch, check_counts
from tests.helpers.oracle import rounded_cosine as cosine
from tests.helpers.oracle import windows_of
from tests.helpers.prompts import random_prompt, regular_prompt, steady_prompt

from omnisift.budget import Budget
from omnisift.compressors.tome import TomeCompressor


def loop(embeds: torch.Tensor, places: list[int], kept: int) -> dict[int, torch.Tensor]:
    """Place -> mean of all that it stands for, after merging one window down to ``kept``."""
    alive = [(place, [place]) for place in places]
    while len(alive) > kept:
        drop = min(len(alive) - kept, len(alive) // 2)
        mean = [embeds[members].mean(dim=0) for _, members in alive]
        edges = []
        for a in range(0, len(alive), 2):
            like = {b: cosine(mean[a], mean[b]) for b in range(1, len(alive), 2)}
            if like:
                into = min(like, key=lambda b: (-like[b], b))
                edges.append((-like[into], a, into))
        gone = set()
        for _, a, into in sorted(edges)[:drop]:
            alive[into][1].extend(alive[a][1])
            gone.add(a)
        alive = [token for i, token in enumerate(alive) if i not in gone]
    return {place: embeds[members].mean(dim=0) for place, members in alive}


@pytest.mark.parametrize("seed", range(40))
def test_equals_the_loop(seed: int):
    prompt = random_prompt(seed)
    stream = prompt.stream()
    budget = BUDGETS[seed % len(BUDGETS)]
    result = TomeCompressor(budget)(stream)
    check_counts("tome", stream, result.keep, budget)
    wanted = prompt.embeds.clone()
    for _, places, kept in windows_of(stream, budget):
        means = loop(prompt.embeds, places, kept)
        assert {place for place in places if result.keep[place]} == set(means)
        for place, mean in means.items():
            wanted[place] = mean
    if result.embeds is None:
        assert torch.equal(wanted, prompt.embeds)
    else:
        torch.testing.assert_close(result.embeds, wanted[result.keep], atol=1e-5, rtol=1e-5)


def test_merging_keeps_the_sum():
    """One frame and one chunk's audio: sizes times means add up to what was there."""
    prompt = steady_prompt(1, 12, 20)
    stream = prompt.stream()
    budget = Budget(retain_video=0.1, retain_audio=0.05)
    result = TomeCompressor(budget)(stream)
    for _, places, kept in windows_of(stream, budget):
        assert kept == (2 if len(places) == 12 else 1)
    audio = stream.modality[result.keep] == 2
    assert result.embeds is not None
    torch.testing.assert_close(result.embeds[audio][0], prompt.embeds[stream.modality == 2].mean(dim=0))


def test_untouched_tokens_stay_bit_for_bit_and_nothing_is_written():
    prompt = steady_prompt(4, 9, 100)
    before = prompt.embeds.clone()
    result = TomeCompressor(Budget(retain_video=0.9, retain_audio=0.9))(prompt.stream())
    assert torch.equal(prompt.embeds, before)
    assert result.embeds is not None
    same = (result.embeds == before[result.keep]).all(dim=1)
    assert int(same.sum()) == int(result.keep.sum()) - int((~result.keep).sum())  # every merge touches one token


def test_twins_merge_first_and_the_place_is_the_second_ones():
    prompt = steady_prompt(1, 8, 0)
    prompt.embeds[3] = prompt.embeds[6]  # tokens 2 (A) and 5 (B) of the frame; token 0 of the prompt is text
    result = TomeCompressor(Budget(retain_video=0.85, retain_audio=1.0))(prompt.stream())
    assert torch.nonzero(~result.keep).flatten().tolist() == [3]


def test_steps_do_not_grow_with_the_number_of_chunks():
    seen = []
    for seconds in (8, 80):
        with Watch() as watch, torch.no_grad():
            TomeCompressor(SPLIT)(regular_prompt(seconds).stream())
        seen.append(watch.steps)
    assert seen[0] == seen[1]


def test_a_gradient_reaches_all_that_merged():
    prompt = steady_prompt(2, 9, 50)
    prompt.embeds.requires_grad_()
    result = TomeCompressor(SPLIT)(prompt.stream())
    assert result.embeds is not None
    result.embeds.sum().backward()
    assert prompt.embeds.grad is not None
    assert (prompt.embeds.grad.abs().sum(dim=1) > 0).all()
