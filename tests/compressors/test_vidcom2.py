"""VidCom2 against a readable loop: channels, similarities, shares of the clip's total, what stays in a frame."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from tests.helpers.contract import BUDGETS, SPLIT, check_counts
from tests.helpers.oracle import check_shared, frames_of, shares, video_total
from tests.helpers.prompts import random_prompt, steady_prompt
from torch.utils._python_dispatch import TorchDispatchMode

from omnisift.budget import Budget
from omnisift.chunks import ChunkShapes
from omnisift.compressors.random import RandomCompressor
from omnisift.compressors.vidcom2 import VidCom2Compressor, adaptive_counts, frame_weights
from omnisift.ops import similarity
from omnisift.ops.frames import Frames
from omnisift.tokens import TokenStream


def loop_likeness(stream: TokenStream, frames: list[list[int]]) -> tuple[list[list[float]], list[list[float]]]:
    """Of one clip, frame by frame: similarity to the clip's centre and to the frame's."""
    tokens = stream.embeds.double()[[place for frame in frames for place in frame]]
    variance = tokens.var(dim=0, unbiased=False).tolist()
    still = sorted(range(len(variance)), key=lambda channel: variance[channel])[: len(variance) // 2]
    unit = {
        place: x / max(float(x.norm()), 1e-12)
        for frame in frames
        for place, x in zip(frame, stream.embeds.double()[frame][:, still], strict=True)
    }
    centre = sum(unit.values()) / len(unit)
    to_clip = [[gaussians(unit[place], centre) for place in frame] for frame in frames]
    own = [sum(unit[place] for place in frame) / len(frame) for frame in frames]
    to_frame = [[gaussians(unit[place], mean) for place in frame] for frame, mean in zip(frames, own, strict=True)]
    return to_clip, to_frame


def gaussians(x: torch.Tensor, y: torch.Tensor) -> float:
    square = float((x - y) @ (x - y))
    return sum(math.exp(-square / (2 * width)) for width in (1 / 8, 1 / 4, 1 / 2, 1, 2))


def loop_shares(to_clip: list[list[float]], total: int) -> list[float]:
    """Of one clip, before rounding."""
    sizes = [len(frame) for frame in to_clip]
    unlike = [-sum(frame) / len(frame) / 0.01 for frame in to_clip]
    powers = [math.exp(u - max(unlike)) for u in unlike]
    retain = total / sum(sizes)
    rates = [min(1.0, retain * (1 + p / sum(powers) - 1 / len(sizes))) for p in powers]
    return shares([rate * size for rate, size in zip(rates, sizes, strict=True)], sizes, total)


@pytest.mark.parametrize("seed", range(45))
def test_equals_the_loop(seed: int):
    stream, budget = random_prompt(seed).stream(), BUDGETS[seed % len(BUDGETS)]
    keep = VidCom2Compressor(budget)(stream).keep
    check_counts("vidcom2", stream, keep, budget)
    for frames in frames_of(stream):
        to_clip, to_frame = loop_likeness(stream, frames)
        scores = [[-a - b for a, b in zip(x, y, strict=True)] for x, y in zip(to_clip, to_frame, strict=True)]
        check_shared(keep, frames, loop_shares(to_clip, video_total(stream, budget, frames)), scores)


def odd_one_out() -> TokenStream:
    """Eight near-equal frames but for number 5."""
    stream = steady_prompt(8, 20, 0).stream()
    embeds = stream.embeds * 0.1 + 1
    frame = frames_of(stream)[0][5]
    embeds[frame] = -embeds[frame]
    return dataclasses.replace(stream, embeds=embeds)


def test_the_odd_frame_gets_more_and_the_rest_the_same():
    """All of p on one frame: R (1 + 1 - 1/8) there and R (1 - 1/8) elsewhere, 14 or 15 and 7 of 20 at R = 0.4."""
    stream = odd_one_out()
    keep = VidCom2Compressor(Budget(retain=0.4))(stream).keep
    kept = [int(keep[frame].sum()) for frame in frames_of(stream)[0]]
    assert kept == [7, 7, 7, 7, 7, 15, 7, 7]
    counts = adaptive_counts(stream, Budget(retain=0.4).counts(ChunkShapes.of(stream)))
    assert torch.stack([counts.frame0, counts.frame1], dim=1).flatten().tolist() == kept


def test_weights_are_rates():
    stream = odd_one_out()
    frames = Frames.of(stream)
    unlike = torch.full((160,), 3.0)
    unlike[100:120] = 1.0
    weights = frame_weights(unlike, frames, torch.full((8,), 0.4, dtype=torch.float64))
    torch.testing.assert_close(weights, torch.tensor([0.35] * 5 + [0.75] + [0.35] * 2, dtype=torch.float64))
    assert frame_weights(unlike, frames, torch.full((8,), 0.9, dtype=torch.float64)).max() == 1


def test_channels_are_chosen_clip_by_clip():
    """Loud channels of one clip don't hide the quiet ones of another: see the loop; and they are not looked at."""
    stream = steady_prompt(4, 12, 0).stream()
    embeds = stream.embeds.clone()
    embeds[:, 8:] *= 100
    loud = dataclasses.replace(stream, embeds=embeds)
    other = embeds.clone()
    other[:, 8:] = other[:, 8:].flip(0)
    assert torch.equal(
        VidCom2Compressor(SPLIT)(loud).keep, VidCom2Compressor(SPLIT)(dataclasses.replace(loud, embeds=other)).keep
    )


class Largest(TorchDispatchMode):
    """The largest new float tensor."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.is_floating_point() and not func.is_view:
            self.numbers = max(self.numbers, out.numel())
        return out


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch):
    stream = steady_prompt(8, 64, 0).stream()
    monkeypatch.setattr(similarity, "MAX_ELEMENTS", 1024)
    with Largest() as seen:
        VidCom2Compressor(SPLIT).select_video(stream, SPLIT.counts(ChunkShapes.of(stream)))
    assert seen.numbers <= 1024 < stream.embeds.numel()


def test_ties_keep_the_first():
    stream = steady_prompt(4, 6, 0).stream()
    flat = dataclasses.replace(stream, embeds=torch.ones_like(stream.embeds))
    keep = VidCom2Compressor(Budget(retain=0.5))(flat).keep
    assert [keep[frame].tolist() for frame in frames_of(stream)[0]] == [[True] * 3 + [False] * 3] * 4


def test_labels():
    assert VidCom2Compressor(SPLIT).label == "vidcom2"
    assert VidCom2Compressor(SPLIT, RandomCompressor(SPLIT)).label == "vidcom2+random"
