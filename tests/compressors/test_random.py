"""Random selection is reproducible, independent of the batch, and uniform."""

from __future__ import annotations

import torch
from tests.helpers.prompts import clip_prompt, in_one_batch

from omnisift.budget import Budget
from omnisift.compressors.random import RandomCompressor

HALF = Budget(retain_video=0.5, retain_audio=0.5)


def test_the_seed_decides():
    stream = clip_prompt(frames=4, tokens=16, audio=50).stream()
    first, again, other = (RandomCompressor(HALF, seed=s)(stream).keep for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_two_equal_clips_of_a_prompt_are_drawn_apart():
    clip = clip_prompt(frames=4, tokens=16, audio=0)
    twice = in_one_batch([clip, clip])
    twice.sample[:] = 0
    keep = RandomCompressor(HALF)(twice.stream()).keep
    assert not torch.equal(keep[: len(keep) // 2], keep[len(keep) // 2 :])


def test_every_place_is_as_likely_as_any_other():
    stream = clip_prompt(frames=2, tokens=20, audio=0).stream()
    kept = torch.stack([RandomCompressor(HALF, seed=s)(stream).keep for s in range(2000)]).float().mean(dim=0)
    inside = kept[stream.chunk >= 0]
    assert (inside - 0.5).abs().max() < 0.06  # five standard errors


def test_negative_and_huge_seeds_are_legal():
    stream = clip_prompt(frames=2, tokens=20, audio=0).stream()
    scores = RandomCompressor(HALF, seed=-(2**62)).score(stream)
    assert ((scores >= 0) & (scores < 1)).all()
