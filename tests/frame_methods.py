"""Helpers for methods that rank frame by frame: clips as lists, expected shares, and the contract of all methods."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from tests.geometry import Prompt, random_prompt

from omnisift.budget import Budget
from omnisift.chunks import ChunkShapes
from omnisift.compressors import Compressor
from omnisift.tokens import Modality, TokenStream

NEAR = 1e-5
SPLIT = Budget(retain_video=0.4, retain_audio=0.6)
BUDGETS = (SPLIT, Budget(retain=0.3), Budget(retain_video=0.12, retain_audio=0.9))


def frames_of(stream: TokenStream) -> list[list[list[int]]]:
    """Per clip, per frame in order of time: places of its tokens."""
    clips: dict[int, dict[int, list[int]]] = {}
    for place in range(len(stream)):
        if stream.modality[place] == Modality.VIDEO:
            time = int(stream.position[0, place])
            clips.setdefault(int(stream.clip[place]), {}).setdefault(time, []).append(place)
    return [[frames[time] for time in sorted(frames)] for _, frames in sorted(clips.items())]


def audio_of(stream: TokenStream) -> list[list[int]]:
    """Per clip that has such audio: places of the audio tokens inside chunks."""
    clips: dict[int, list[int]] = {}
    for place in range(len(stream)):
        if stream.modality[place] == Modality.AUDIO and stream.chunk[place] >= 0:
            clips.setdefault(int(stream.clip[place]), []).append(place)
    return [places for _, places in sorted(clips.items())]


def cosine(x: torch.Tensor, y: torch.Tensor) -> float:
    norm = float(x.norm() * y.norm())
    return float(x @ y) / norm if norm > 0 else 0.0


def unlike_mean(embeds: torch.Tensor, places: list[int]) -> list[float]:
    mean = embeds[places].mean(dim=0)
    return [1 - cosine(embeds[place], mean) for place in places]


def check_best(keep: torch.Tensor, places: list[int], scores: list[float], count: int) -> None:
    """Exactly ``count`` of ``places`` stay, and none that goes has a clearly higher score than one that stays."""
    stays = [score for place, score in zip(places, scores, strict=True) if keep[place]]
    goes = [score for place, score in zip(places, scores, strict=True) if not keep[place]]
    assert len(stays) == count
    if stays and goes:
        assert min(stays) >= max(goes) - NEAR


def shares(weights: list[float], sizes: list[int], total: int, least: int = 0) -> list[float]:
    """``total`` in parts, before rounding: ``least`` each, the rest by weight; the full ones leave, the others share
    again."""
    given: dict[int, float] = {}
    wish: dict[int, float] = {}
    while len(given) < len(sizes):
        others = [i for i in range(len(sizes)) if i not in given]
        rest = total - sum(given.values()) - least * len(others)
        wish = {i: least + rest * weights[i] / sum(weights[j] for j in others) for i in others}
        full = [i for i in others if wish[i] >= sizes[i]]
        if not full:
            break
        given |= {i: float(sizes[i]) for i in full}
    return [given.get(i, wish.get(i, 0.0)) for i in range(len(sizes))]


def check_rounded(counts: list[int], exact: list[float]) -> None:
    """``counts`` are ``exact`` by largest remainder; of remainders equal but for rounding, either may be first."""
    assert sum(counts) == round(sum(exact))
    assert all(-NEAR < count - math.floor(x) < 1 + NEAR for count, x in zip(counts, exact, strict=True))
    up = [x - math.floor(x) for count, x in zip(counts, exact, strict=True) if count > x]
    down = [x - math.floor(x) for count, x in zip(counts, exact, strict=True) if count < x]
    assert not up or not down or min(up) >= max(down) - NEAR


def check_shared(keep: torch.Tensor, frames: list[list[int]], exact: list[float], scores: list[list[float]]) -> None:
    """Each frame has its rounded share, and in it the best stay."""
    counts = [int(keep[frame].sum()) for frame in frames]
    check_rounded(counts, exact)
    for frame, values, count in zip(frames, scores, counts, strict=True):
        check_best(keep, frame, values, count)


def video_total(stream: TokenStream, budget: Budget, frames: list[list[int]]) -> int:
    """The budget's number of video tokens for the clip of these frames."""
    shapes = ChunkShapes.of(stream)
    counts = budget.counts(shapes)
    return int((counts.frame0 + counts.frame1)[shapes.clip == stream.clip[frames[0][0]]].sum())


def check_totals(stream: TokenStream, keep: torch.Tensor, budget: Budget) -> None:
    """Per clip and modality the budget's total; everything outside chunks stays."""
    shapes = ChunkShapes.of(stream)
    counts = budget.counts(shapes)
    assert keep[stream.chunk < 0].all()
    for clip in range(int(stream.clip.max()) + 1):
        inside = (stream.clip == clip) & (stream.chunk >= 0) & keep
        mine = shapes.clip == clip
        assert int((inside & (stream.modality == Modality.VIDEO)).sum()) == int(
            (counts.frame0 + counts.frame1)[mine].sum()
        )
        assert int((inside & (stream.modality == Modality.AUDIO)).sum()) == int(counts.audio[mine].sum())


def check_frame_counts(stream: TokenStream, keep: torch.Tensor, budget: Budget) -> None:
    """In every frame the budget's own count, not only in total."""
    shapes = ChunkShapes.of(stream)
    counts = budget.counts(shapes)
    video = (stream.modality == Modality.VIDEO) & keep
    for frame, wanted in ((0, counts.frame0), (1, counts.frame1)):
        assert torch.bincount(stream.chunk[video & (stream.frame == frame)], minlength=len(shapes)).equal(wanted)


def steady_prompt(frames: int, tokens: int, audio: int, seed: int = 0, width: int = 16) -> Prompt:
    """One clip of ``frames`` one-second frames, ``audio`` tokens of audio from its start on, text around it."""
    places = [(Modality.VIDEO, 25 * frame) for frame in range(frames) for _ in range(tokens)]
    places += [(Modality.AUDIO, time) for time in range(audio)]
    ordered = sorted(places, key=lambda place: (place[1] // 50, place[0], place[1]))
    ordered = [(Modality.TEXT, 0), *ordered, (Modality.TEXT, 25 * frames + audio)]
    modality, temporal = (torch.tensor([int(x) for x in column]) for column in zip(*ordered, strict=True))
    embeds = torch.randn(len(ordered), width, generator=torch.Generator().manual_seed(seed))
    return Prompt(embeds, modality.to(torch.int8), temporal, torch.zeros(len(ordered), dtype=torch.int64))


def joined(prompts: list[Prompt]) -> Prompt:
    """Some prompts of one sample each as one batch."""
    return Prompt(
        torch.cat([p.embeds for p in prompts]),
        torch.cat([p.modality for p in prompts]),
        torch.cat([p.temporal for p in prompts]),
        torch.cat([p.sample + i for i, p in enumerate(prompts)]),
    )


def check_contract(make: Callable[[Budget], Compressor], budget: Budget = SPLIT) -> None:
    """The contract: equal alone, in a batch and repeated; all kept at retain=1; finite results for any input."""
    prompts = [steady_prompt(5, 9, 120, seed=1), steady_prompt(1, 7, 0, seed=2), steady_prompt(8, 4, 210, seed=3)]
    alone = [make(budget)(p.stream()).keep for p in prompts]
    together = make(budget)(joined(prompts).stream())
    assert torch.equal(together.keep, torch.cat(alone))
    assert torch.equal(together.keep, make(budget)(joined(prompts).stream()).keep)
    assert not together.keep.all()

    everything = make(Budget(retain=1))(joined(prompts).stream())
    assert everything.keep.all()
    if everything.embeds is not None:
        assert torch.equal(everything.embeds, joined(prompts).embeds)

    stream = prompts[0].stream()
    media = stream.chunk >= 0
    for value in (0.0, 1.0):
        flat = dataclasses.replace(stream, embeds=torch.full_like(stream.embeds, value))
        result = make(budget)(flat)
        check_totals(flat, result.keep, budget)
        if result.scores is not None:
            video = media & (stream.modality == Modality.VIDEO) & (stream.clip == 0)
            assert not result.scores[video & ~result.keep].isnan().any()
    broken = stream.embeds.clone()
    broken[::3], broken[1::7] = torch.nan, torch.inf
    result = make(budget)(dataclasses.replace(stream, embeds=broken))
    check_totals(stream, result.keep, budget)

    for none in (random_prompt(0, samples=1, clips=0).stream(), empty()):
        assert make(budget)(none).keep.all()


def empty() -> TokenStream:
    nothing = torch.zeros(0, dtype=torch.int64)
    return Prompt(torch.zeros(0, 16), nothing.to(torch.int8), nothing, nothing).stream()
