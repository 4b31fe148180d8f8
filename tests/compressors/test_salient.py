"""Saliency alone against a readable loop, and against STVP's spatial half."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.helpers.contract import BUDGETS, SPLIT
from tests.helpers.oracle import check_best, unlike_mean
from tests.helpers.prompts import random_prompt, steady_prompt

from omnisift.budget import Budget
from omnisift.chunks import ChunkShapes, segment_of
from omnisift.compressors.salient import SalientCompressor
from omnisift.compressors.stvp import StvpCompressor
from omnisift.tokens import Modality


@pytest.mark.parametrize("seed", range(45))
def test_equals_the_loop(seed: int):
    stream, budget = random_prompt(seed).stream(), BUDGETS[seed % len(BUDGETS)]
    result = SalientCompressor(budget)(stream)
    segment = segment_of(stream)
    assert result.keep[segment < 0].all()
    for number, count in enumerate(budget.counts(ChunkShapes.of(stream)).by_segment().tolist()):
        places = torch.nonzero(segment == number).flatten().tolist()
        check_best(result.keep, places, unlike_mean(stream.embeds.double(), places) if places else [], count)


def test_its_video_is_the_spatial_half_of_stvp():
    stream = steady_prompt(5, 9, 120).stream()
    video = stream.modality == Modality.VIDEO
    spatial = StvpCompressor(SPLIT, mode="spatial")(stream)
    assert torch.equal(SalientCompressor(SPLIT)(stream).keep[video], spatial.keep[video])


def test_only_audio_inside_chunks_is_scored():
    stream = random_prompt(8).stream()
    scores = SalientCompressor(SPLIT)(stream).scores
    assert torch.equal(scores.isnan(), stream.chunk < 0)


def test_ties_keep_the_first():
    stream = steady_prompt(2, 6, 50).stream()
    flat = dataclasses.replace(stream, embeds=torch.ones_like(stream.embeds))
    keep = SalientCompressor(Budget(retain_video=0.5, retain_audio=0.2))(flat).keep
    for number, (size, kept) in enumerate([(6, 3), (6, 3), (50, 10)]):
        assert keep[segment_of(stream) == number].tolist() == [True] * kept + [False] * (size - kept)


def test_labels():
    assert SalientCompressor(SPLIT).label == "salient"
