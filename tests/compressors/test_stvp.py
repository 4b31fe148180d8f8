"""STVP as a method of its own: its three modes, the fast path against it, and the dynamic budget."""

from __future__ import annotations

import pytest
import torch
from tests.compressors.test_vidcom2 import loop_likeness, loop_shares
from tests.helpers.contract import BUDGETS, SPLIT, check_counts
from tests.helpers.oracle import NEAR, check_best, check_shared, cosine, frames_of, unlike_mean, video_total
from tests.helpers.prompts import random_prompt

from omnisift.budget import Budget
from omnisift.compressors.omnisift import OmniSiftCompressor
from omnisift.compressors.random import RandomCompressor
from omnisift.compressors.salient import SalientCompressor
from omnisift.compressors.stvp import StvpCompressor
from omnisift.errors import CompressorError
from omnisift.tokens import Modality, TokenStream
from omnisift.vgas import VGAS, VGASConfig

MODES = ["both", "spatial", "temporal"]


def loop_scores(stream: TokenStream, frames: list[list[int]], mode: str) -> list[list[float]]:
    """Of one clip, frame by frame."""
    embeds = stream.embeds.double()
    result = []
    for number, frame in enumerate(frames):
        partner = number + 1 if number % 2 == 0 else number - 1  # the other frame of the chunk
        paired = partner < len(frames) and len(frames[partner]) == len(frame)
        if paired and (mode == "temporal" or (mode == "both" and number % 2 == 1)):
            result.append([1 - cosine(embeds[i], embeds[j]) for i, j in zip(frame, frames[partner], strict=True)])
        else:
            result.append(unlike_mean(embeds, frame))
    return result


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("mode", MODES)
def test_equals_the_loop(seed: int, mode: str):
    stream, budget = random_prompt(seed).stream(), BUDGETS[seed % len(BUDGETS)]
    keep = StvpCompressor(budget, mode=mode)(stream).keep
    check_counts("stvp", stream, keep, budget)
    for frames in frames_of(stream):
        for frame, scores in zip(frames, loop_scores(stream, frames, mode), strict=True):
            check_best(keep, frame, scores, int(keep[frame].sum()))


@pytest.mark.parametrize("seed", range(30))
def test_is_the_video_half_of_omnisift(seed: int):
    """The fast path is a formula in other steps: where the two differ, their scores are equal but for rounding."""
    stream, budget = random_prompt(seed).stream(), BUDGETS[seed % len(BUDGETS)]
    torch.manual_seed(0)
    selector = VGAS(VGASConfig(input_size=16, hidden_size=16, num_attention_heads=2)).eval()
    with torch.no_grad():
        complete = OmniSiftCompressor(budget, selector).eval()(stream)
    video = stream.modality == Modality.VIDEO
    for audio in (None, RandomCompressor(budget), SalientCompressor(budget)):
        result = StvpCompressor(budget, audio)(stream)
        scored = video & ~complete.scores.isnan()
        torch.testing.assert_close(result.scores[scored], complete.scores[scored], atol=NEAR, rtol=0)
        for frame in (frame for frames in frames_of(stream) for frame in frames):
            if complete.scores[frame].isnan().any():  # sizes differ: kept whole
                assert result.keep[frame].all()
            else:
                check_best(result.keep, frame, complete.scores[frame].tolist(), int(complete.keep[frame].sum()))


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("mode", MODES)
def test_adaptive_moves_counts_as_vidcom2_and_ranks_as_before(seed: int, mode: str):
    stream, budget = random_prompt(seed).stream(), BUDGETS[seed % len(BUDGETS)]
    keep = StvpCompressor(budget, mode=mode, adaptive=True)(stream).keep
    check_counts("stvp:adaptive=true", stream, keep, budget)
    for frames in frames_of(stream):
        exact = loop_shares(loop_likeness(stream, frames)[0], video_total(stream, budget, frames))
        check_shared(keep, frames, exact, loop_scores(stream, frames, mode))


def test_adaptive_changes_something():
    streams = [random_prompt(seed).stream() for seed in range(20)]
    fixed, moved = StvpCompressor(SPLIT), StvpCompressor(SPLIT, adaptive=True)
    assert any(not torch.equal(fixed(stream).keep, moved(stream).keep) for stream in streams)


def test_labels_and_options():
    budget = Budget(retain=0.5)
    assert [StvpCompressor(budget, mode=mode).label for mode in MODES] == ["stvp", "stvp-spatial", "stvp-temporal"]
    assert StvpCompressor(budget, adaptive=True).label == "stvp-adaptive"
    assert StvpCompressor(budget, mode="spatial", adaptive=True).label == "stvp-spatial-adaptive"
    with pytest.raises(CompressorError, match="both, spatial or temporal, got 'space'"):
        StvpCompressor(budget, mode="space")
    with pytest.raises(CompressorError, match="true or false, got 1"):
        StvpCompressor(budget, adaptive=1)  # type: ignore[arg-type]
