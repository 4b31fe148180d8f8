"""Plain top-k of the encoders' attention, in every frame and chunk."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.helpers.oracle import highest
from tests.helpers.prompts import random_prompt, regular_prompt, with_attention

from omnisift.budget import Budget
from omnisift.chunks import ChunkShapes, segment_of
from omnisift.compressors.attended import AttendedCompressor
from omnisift.errors import CompressorError
from omnisift.tokens import Modality

BUDGETS = [Budget(retain=0.3), Budget(retain_video=0.1, retain_audio=0.6), Budget(retain_video=0.7, retain_audio=0.1)]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("seed", range(40))
def test_equals_the_readable_loop(seed: int, budget: Budget):
    stream = with_attention(random_prompt(seed).stream())
    segment = segment_of(stream)
    wanted = segment < 0
    for number, kept in enumerate(budget.counts(ChunkShapes.of(stream)).by_segment().tolist()):
        places = torch.nonzero(segment == number).flatten().tolist()
        which = "audio_attention_window" if number % 3 == 2 else "video_attention"
        for i in highest([float(stream.extras[which][p]) for p in places], kept):
            wanted[places[i]] = True
    result = AttendedCompressor(budget)(stream)
    assert torch.equal(result.keep, wanted)
    assert result.embeds is None


def test_each_modality_looks_at_its_own_attention_only():
    """What another extra holds at a token of the wrong modality does not count."""
    stream = with_attention(regular_prompt(20).stream())
    before = AttendedCompressor(BUDGETS[0])(stream).keep
    video = stream.modality == Modality.VIDEO
    dirty = {
        "video_attention": torch.where(video, stream.extras["video_attention"], 9.0),
        "audio_attention_window": torch.where(video, 9.0, stream.extras["audio_attention_window"]),
    }
    assert torch.equal(AttendedCompressor(BUDGETS[0])(dataclasses.replace(stream, extras=dirty)).keep, before)


def test_equal_attention_keeps_the_first():
    prompt = regular_prompt(20)
    prompt.embeds[:] = 0
    stream = with_attention(prompt.stream())
    keep, segment = AttendedCompressor(BUDGETS[0])(stream).keep, segment_of(stream)
    for number in range(int(segment.max()) + 1):
        stays = keep[segment == number].tolist()
        assert stays == sorted(stays, reverse=True)


def test_without_attention_the_missing_extras_are_named():
    with pytest.raises(CompressorError, match=r"audio_attention_window.*video_attention"):
        AttendedCompressor(BUDGETS[0])(random_prompt(1).stream())
