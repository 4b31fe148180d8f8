"""Helpers for methods that rank frame by frame: clips as lists, expected shares, and the contract of all methods."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from tests.helpers.geometry import Prompt, random_prompt

from omnisift.budget import Budget
from omnisift.chunks import ChunkShapes
from omnisift.compressors import Compressor
from omnisift.tokens import Modality, TokenStream

NEAR = 1e-5
SPLIT = Budget(retain_video=0.4, retain_audio=0.6)
BUDGETS = (SPLIT, Budget(retain=0.3), Budget(retain_video=0.12, retain_audio=0.9))


def frames_of(stream: TokenStream) -> list[list[list[int]]]:
    """Indices of the tokens of each frame of each clip, in order of time."""
    clips: dict[int, dict[int, list[int]]] = {}
    for index in range(len(stream)):
        if stream.modality[index] == Modality.VIDEO:
            time = int(stream.position[0, index])
            clips.setdefault(int(stream.clip[index]), {}).setdefault(time, []).append(index)
    return [[frames[time] for time in sorted(frames)] for _, frames in sorted(clips.items())]


def audio_of(stream: TokenStream) -> list[list[int]]:
    """Indices of the audio tokens inside chunks, for each clip that has any."""
    clips: dict[int, list[int]] = {}
    for index in range(len(stream)):
        if stream.modality[index] == Modality.AUDIO and stream.chunk[index] >= 0:
            clips.setdefault(int(stream.clip[index]), []).append(index)
    return [indices for _, indices in sorted(clips.items())]


def cosine(x: torch.Tensor, y: torch.Tensor) -> float:
    norm = float(x.norm() * y.norm())
    return float(x @ y) / norm if norm > 0 else 0.0


def unlike_mean(embeds: torch.Tensor, indices: list[int]) -> list[float]:
    mean = embeds[indices].mean(dim=0)
    return [1 - cosine(embeds[index], mean) for index in indices]


def check_best(keep: torch.Tensor, indices: list[int], scores: list[float], count: int) -> None:
    """Check that ``count`` of ``indices`` are kept and that no dropped one scores clearly higher than a kept one."""
    kept = [score for index, score in zip(indices, scores, strict=True) if keep[index]]
    dropped = [score for index, score in zip(indices, scores, strict=True) if not keep[index]]
    assert len(kept) == count
    if kept and dropped:
        assert min(kept) >= max(dropped) - NEAR


def shares(weights: list[float], sizes: list[int], total: int, minimum: int = 0) -> list[float]:
    """Divide ``total`` into parts, before rounding: ``minimum`` each, the rest by weight.

    Parts that reach their size are fixed; the others share the rest again.
    """
    given: dict[int, float] = {}
    wish: dict[int, float] = {}
    while len(given) < len(sizes):
        others = [i for i in range(len(sizes)) if i not in given]
        rest = total - sum(given.values()) - minimum * len(others)
        wish = {i: minimum + rest * weights[i] / sum(weights[j] for j in others) for i in others}
        full = [i for i in others if wish[i] >= sizes[i]]
        if not full:
            break
        given |= {i: float(sizes[i]) for i in full}
    return [given.get(i, wish.get(i, 0.0)) for i in range(len(sizes))]


def check_rounded(counts: list[int], exact: list[float]) -> None:
    """Check that ``counts`` round ``exact`` by largest remainder; remainders within the tolerance count as equal."""
    assert sum(counts) == round(sum(exact))
    assert all(-NEAR < count - math.floor(x) < 1 + NEAR for count, x in zip(counts, exact, strict=True))
    up = [x - math.floor(x) for count, x in zip(counts, exact, strict=True) if count > x]
    down = [x - math.floor(x) for count, x in zip(counts, exact, strict=True) if count < x]
    assert not up or not down or min(up) >= max(down) - NEAR


def check_shared(keep: torch.Tensor, frames: list[list[int]], exact: list[float], scores: list[list[float]]) -> None:
    """Check that each frame keeps its rounded share, and in it the tokens with the highest scores."""
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
    """Check the budget's total per clip and modality; all tokens outside chunks are kept."""
    shapes = ChunkShapes.of(stream)
    counts = budget.counts(shapes)
    assert keep[stream.chunk < 0].all()
    for clip in range(int(stream.clip.max()) + 1):
        inside = (stream.clip == clip) & (stream.chunk >= 0) & keep
        own_chunks = shapes.clip == clip
        assert int((inside & (stream.modality == Modality.VIDEO)).sum()) == int(
            (counts.frame0 + counts.frame1)[own_chunks].sum()
        )
        assert int((inside & (stream.modality == Modality.AUDIO)).sum()) == int(counts.audio[own_chunks].sum())


def check_frame_counts(stream: TokenStream, keep: torch.Tensor, budget: Budget) -> None:
    """Check the budget's count in every frame, not only in total."""
    shapes = ChunkShapes.of(stream)
    counts = budget.counts(shapes)
    video = (stream.modality == Modality.VIDEO) & keep
    for frame, wanted in ((0, counts.frame0), (1, counts.frame1)):
        assert torch.bincount(stream.chunk[video & (stream.frame == frame)], minlength=len(shapes)).equal(wanted)


def steady_prompt(frames: int, tokens: int, audio: int, seed: int = 0, width: int = 16) -> Prompt:
    """One clip of ``frames`` one-second frames, ``audio`` audio tokens from its start, and text around it."""
    media = [(Modality.VIDEO, 25 * frame) for frame in range(frames) for _ in range(tokens)]
    media += [(Modality.AUDIO, time) for time in range(audio)]
    ordered = sorted(media, key=lambda token: (token[1] // 50, token[0], token[1]))
    ordered = [(Modality.TEXT, 0), *ordered, (Modality.TEXT, 25 * frames + audio)]
    modality, temporal = (torch.tensor([int(x) for x in column]) for column in zip(*ordered, strict=True))
    embeds = torch.randn(len(ordered), width, generator=torch.Generator().manual_seed(seed))
    return Prompt(embeds, modality.to(torch.int8), temporal, torch.zeros(len(ordered), dtype=torch.int64))


def joined(prompts: list[Prompt]) -> Prompt:
    """Prompts of one sample each as one batch."""
    return Prompt(
        torch.cat([p.embeds for p in prompts]),
        torch.cat([p.modality for p in prompts]),
        torch.cat([p.temporal for p in prompts]),
        torch.cat([p.sample + i for i, p in enumerate(prompts)]),
    )


def check_contract(make: Callable[[Budget], Compressor], budget: Budget = SPLIT) -> None:
    """Check the contract: same result alone, in a batch and repeated; all kept at retain=1; finite for any input."""
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
