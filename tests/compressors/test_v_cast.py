"""V-CAST against a readable loop: curvature, shares of the clip's total, what stays in a frame."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from tests.helpers.contract import BUDGETS, SPLIT, check_counts
from tests.helpers.oracle import check_shared, cosine, frames_of, shares, video_total
from tests.helpers.prompts import random_prompt, steady_prompt

from omnisift.budget import Budget
from omnisift.compressors.random import RandomCompressor
from omnisift.compressors.v_cast import VCastCompressor, curvature, strength
from omnisift.ops.frames import Frames
from omnisift.tokens import TokenStream


def loop_curvature(stream: TokenStream, frames: list[list[int]]) -> list[float]:
    means = [stream.embeds.double()[frame].mean(dim=0) for frame in frames]
    unit = [mean / mean.norm() if float(mean.norm()) > 0 else mean for mean in means]
    bends = [1.0] * len(frames)
    for t in range(1, len(frames) - 1):
        bends[t] = 1 - cosine(unit[t] - unit[t - 1], unit[t + 1] - unit[t])
    return bends


def loop_scores(stream: TokenStream, frame: list[int]) -> list[float]:
    embeds = stream.embeds.double()[frame]
    mean = embeds.mean(dim=0)
    norms = [float(token.norm()) for token in embeds]
    span = max(norms) - min(norms) + 1e-6
    return [1 - cosine(x, mean) + (norm - min(norms)) / span for x, norm in zip(embeds, norms, strict=True)]


@pytest.mark.parametrize("seed", range(45))
def test_equals_the_loop(seed: int):
    stream, budget = random_prompt(seed).stream(), BUDGETS[seed % len(BUDGETS)]
    keep = VCastCompressor(budget)(stream).keep
    check_counts("v_cast", stream, keep, budget)
    for frames in frames_of(stream):
        sizes = [len(frame) for frame in frames]
        pull = [math.exp(k / 0.7) * n for k, n in zip(loop_curvature(stream, frames), sizes, strict=True)]
        exact = shares(pull, sizes, video_total(stream, budget, frames), minimum=1)
        check_shared(keep, frames, exact, [loop_scores(stream, frame) for frame in frames])


def test_a_turn_gets_more_than_a_straight_path():
    """Five frames on a line, then back: only the turning point bends."""
    stream = steady_prompt(7, 30, 0).stream()
    frames = frames_of(stream)[0]
    embeds = stream.embeds * 1e-3
    for frame, x in zip(frames, [0.0, 0.1, 0.2, 0.3, 0.2, 0.1, 0.0], strict=True):
        embeds[frame, 0], embeds[frame, 1] = embeds[frame, 0] + math.cos(x), embeds[frame, 1] + math.sin(x)
    keep = VCastCompressor(Budget(retain=0.3))(dataclasses.replace(stream, embeds=embeds)).keep
    kept = [int(keep[frame].sum()) for frame in frames]
    assert kept[3] > 2 * max(kept[0], kept[6]) > 2 * max(kept[1], kept[2], kept[4], kept[5])
    assert min(kept) >= 1


def test_curvature_stops_at_the_ends_of_a_clip():
    means = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    bends = curvature(means, torch.tensor([0, 0, 0, 1, 1, 1]))
    assert bends[[0, 2, 3, 5]].tolist() == [1.0] * 4
    assert (bends[[1, 4]] != 1).all()


def test_a_strong_token_stays():
    """Of tokens that differ in length only, the longest."""
    stream = steady_prompt(2, 6, 0).stream()
    embeds = torch.ones_like(stream.embeds)
    for frame in frames_of(stream)[0]:
        embeds[frame[4]] *= 3
    keep = VCastCompressor(Budget(retain=0.2))(dataclasses.replace(stream, embeds=embeds)).keep
    assert [[place for place in frame if keep[place]] for frame in frames_of(stream)[0]] == [
        [frame[0], frame[4]] for frame in frames_of(stream)[0]
    ]


def test_rounding_is_not_stretched():
    stream = steady_prompt(4, 6, 0).stream()
    unit = torch.nn.functional.normalize(stream.embeds, dim=1)
    scaled = strength(unit * 100, Frames.of(stream))
    assert float(scaled.nan_to_num().max()) < 1e-2


def test_ties_keep_the_first():
    stream = steady_prompt(4, 6, 0).stream()
    flat = dataclasses.replace(stream, embeds=torch.ones_like(stream.embeds))
    keep = VCastCompressor(Budget(retain=0.5))(flat).keep
    assert [keep[frame].tolist() for frame in frames_of(stream)[0]] == [[True] * 3 + [False] * 3] * 4


def test_labels():
    assert VCastCompressor(SPLIT).label == "v_cast"
    assert VCastCompressor(SPLIT, RandomCompressor(SPLIT)).label == "v_cast+random"
