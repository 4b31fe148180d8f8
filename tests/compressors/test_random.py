"""Random selection is reproducible, independent of the batch, and uniform."""

from __future__ import annotations

import torch
from tests.compressors.test_omnisift import clip_prompt
from tests.helpers.geometry import Prompt, random_prompt

from omnisift.budget import Budget
from omnisift.compressors.random import RandomCompressor

HALF = Budget(retain_video=0.5, retain_audio=0.5)


def joined(*prompts: Prompt) -> Prompt:
    return Prompt(
        torch.cat([p.embeds for p in prompts]),
        torch.cat([p.modality for p in prompts]),
        torch.cat([p.temporal for p in prompts]),
        torch.cat([p.sample + i for i, p in enumerate(prompts)]),
    )


def test_the_seed_decides():
    stream = clip_prompt(frames=4, tokens=16, audio=50).stream()
    first, again, other = (RandomCompressor(HALF, seed=s)(stream).keep for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_batch_neighbours_do_not_matter():
    prompts = [random_prompt(seed, samples=1) for seed in range(8)]
    together = RandomCompressor(HALF)(joined(*prompts).stream()).keep
    assert torch.equal(together, torch.cat([RandomCompressor(HALF)(p.stream()).keep for p in prompts]))


def test_two_equal_clips_of_a_prompt_are_drawn_apart():
    clip = clip_prompt(frames=4, tokens=16, audio=0)
    twice = joined(clip, clip)
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
