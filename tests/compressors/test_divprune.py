"""DivPrune against a readable loop."""

from __future__ import annotations

import pytest
import torch
from tests.helpers.contract import BUDGETS, SPLIT, check_counts
from tests.helpers.oracle import cosines, windows_of
from tests.helpers.prompts import random_prompt, steady_prompt

from omnisift.budget import Budget
from omnisift.compressors.divprune import DivPruneCompressor
from omnisift.tokens import Modality


def loop(embeds: torch.Tensor, places: list[int], kept: int, weight: list[float] | None = None) -> set[int]:
    """Greedy max-min diversity of one window, slowly."""
    like = cosines(embeds, places)
    weight = weight or [1.0] * len(places)
    chosen: list[int] = []
    while len(chosen) < kept:
        best, best_value = -1, -1.0
        for j in range(len(places)):
            others = chosen or [i for i in range(len(places)) if i != j]
            value = min((1 - like[i][j] for i in others), default=1.0) * weight[j]
            if j not in chosen and value > best_value * (1 + 1e-6):
                best, best_value = j, value
        chosen.append(best)
    return {places[j] for j in chosen}


@pytest.mark.parametrize("seed", range(40))
def test_equals_the_loop(seed: int):
    stream = random_prompt(seed).stream()
    budget = BUDGETS[seed % len(BUDGETS)]
    result = DivPruneCompressor(budget)(stream)
    check_counts("divprune", stream, result.keep, budget)
    for _, places, kept in windows_of(stream, budget):
        assert {place for place in places if result.keep[place]} == loop(stream.embeds, places, kept)


def test_frames_of_a_chunk_share_their_count():
    """A second frame that repeats the first gives way to it."""
    prompt = steady_prompt(2, 9, 20)
    video = torch.nonzero(prompt.modality == Modality.VIDEO).flatten()
    prompt.embeds[video[9:]] = prompt.embeds[video[:9]]
    keep = DivPruneCompressor(Budget(retain_video=0.5, retain_audio=0.5))(prompt.stream()).keep[video]
    assert keep[:9].all()
    assert int(keep[9:].sum()) == 1


def test_equal_tokens_keep_the_first():
    prompt = steady_prompt(2, 9, 50)
    prompt.embeds[:] = torch.randn(16, generator=torch.Generator().manual_seed(0))
    stream = prompt.stream()
    keep = DivPruneCompressor(SPLIT)(stream).keep
    for _, places, kept in windows_of(stream, SPLIT):
        assert keep[places].tolist() == [True] * kept + [False] * (len(places) - kept)
