"""Even spacing, without looking at values."""

from __future__ import annotations

import pytest
import torch
from tests.helpers.prompts import clip_prompt

from omnisift.budget import Budget
from omnisift.chunks import segment_of
from omnisift.compressors.uniform import UniformCompressor


@pytest.mark.parametrize(("size", "retain"), [(16, 0.25), (16, 0.5), (144, 0.23), (7, 0.6), (5, 0.9)])
def test_gaps_differ_by_at_most_one(size: int, retain: float):
    stream = clip_prompt(frames=1, tokens=size, audio=0).stream()
    keep = UniformCompressor(Budget(retain_video=retain, retain_audio=1.0))(stream).keep[stream.chunk >= 0]
    places = torch.nonzero(keep).flatten()
    gaps = places.diff()
    assert gaps.max() - gaps.min() <= 1
    assert abs(int(places[0]) - (size - 1 - int(places[-1]))) <= 1  # as far from the start as from the end


def test_values_do_not_matter():
    prompt = clip_prompt(frames=4, tokens=16, audio=50)
    compressor = UniformCompressor(Budget(retain=0.3))
    before = compressor(prompt.stream()).keep
    prompt.embeds[:] = torch.nan
    assert torch.equal(before, compressor(prompt.stream()).keep)


def test_one_kept_token_is_the_middle_one():
    stream = clip_prompt(frames=1, tokens=9, audio=0).stream()
    keep = UniformCompressor(Budget(retain_video=0.1, retain_audio=1.0))(stream).keep
    assert torch.nonzero(keep[segment_of(stream) == 0]).flatten().tolist() == [4]
