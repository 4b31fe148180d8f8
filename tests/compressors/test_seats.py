"""SEATS-I against the loop of DivPrune with weights."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.compressors.test_divprune import loop
from tests.helpers.contract import BUDGETS, SPLIT, check_counts
from tests.helpers.oracle import windows_of
from tests.helpers.prompts import random_prompt, with_attention

from omnisift.compressors.divprune import DivPruneCompressor
from omnisift.compressors.seats import SeatsCompressor
from omnisift.errors import CompressorError
from omnisift.tokens import Modality


@pytest.mark.parametrize("seed", range(30))
def test_equals_the_loop(seed: int):
    stream = with_attention(random_prompt(seed).stream())
    budget = BUDGETS[seed % len(BUDGETS)]
    result = SeatsCompressor(budget)(stream)
    check_counts("seats", stream, result.keep, budget)
    for modality, places, kept in windows_of(stream, budget):
        name = "video_attention" if modality is Modality.VIDEO else "audio_attention_window"
        weight = stream.extras[name][places].tolist()
        assert {place for place in places if result.keep[place]} == loop(stream.embeds, places, kept, weight)


def test_scale_of_the_attention_does_not_matter_and_equal_attention_is_divprune():
    stream = with_attention(random_prompt(7).stream())
    scaled = dataclasses.replace(stream, extras={name: 16 * value for name, value in stream.extras.items()})
    assert torch.equal(SeatsCompressor(SPLIT)(stream).keep, SeatsCompressor(SPLIT)(scaled).keep)
    flat = dataclasses.replace(stream, extras={name: torch.ones(len(stream)) for name in stream.extras})
    assert torch.equal(SeatsCompressor(SPLIT)(flat).keep, DivPruneCompressor(SPLIT)(stream).keep)
    assert not torch.equal(SeatsCompressor(SPLIT)(stream).keep, DivPruneCompressor(SPLIT)(stream).keep)


def test_broken_attention_still_meets_the_budget():
    stream = with_attention(random_prompt(7).stream())
    for value in (0.0, torch.nan, torch.inf):
        broken = {name: torch.full((len(stream),), value) for name in stream.extras}
        odd = dataclasses.replace(stream, extras=broken)
        check_counts("seats", odd, SeatsCompressor(SPLIT)(odd).keep, SPLIT)


def test_without_attention_it_says_what_it_needs():
    with pytest.raises(CompressorError, match="audio_attention_window"):
        SeatsCompressor(SPLIT)(random_prompt(7).stream())
    assert SeatsCompressor(SPLIT).label == "seats-I"
