"""Helpers for methods that rank windows of chunks: windows as lists, rounded cosines, and the contract of all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from tests.helpers.frame_methods import joined, steady_prompt
from tests.helpers.geometry import Prompt, random_prompt

from omnisift.budget import Budget
from omnisift.chunks import ChunkShapes
from omnisift.compressors import Compressor
from omnisift.tokens import Modality, Selection, TokenStream

SPLIT = Budget(retain_video=0.4, retain_audio=0.6)
BUDGETS = (SPLIT, Budget(retain=0.3), Budget(retain_video=0.12, retain_audio=0.25))
Window = tuple[Modality, list[int], int]


def windows_of(stream: TokenStream, budget: Budget, chunks: int = 1) -> list[Window]:
    """(modality, sorted token indices, number kept) of every window of ``chunks`` consecutive chunks of a clip."""
    counts = budget.counts(ChunkShapes.of(stream))
    video, audio = (counts.frame0 + counts.frame1).tolist(), counts.audio.tolist()
    first: dict[int, int] = {}  # of each clip
    for chunk, clip in zip(stream.chunk.tolist(), stream.clip.tolist(), strict=True):
        if chunk >= 0:
            first[clip] = min(first.get(clip, chunk), chunk)
    indices: dict[tuple[int, int, int], list[int]] = {}
    members: dict[tuple[int, int, int], set[int]] = {}
    for index in range(len(stream)):
        chunk, clip = int(stream.chunk[index]), int(stream.clip[index])
        if chunk >= 0:
            key = (clip, (chunk - first[clip]) // chunks, int(stream.modality[index]))
            indices.setdefault(key, []).append(index)
            members.setdefault(key, set()).add(chunk)
    result = []
    for key in sorted(indices):
        modality = Modality(key[2])
        each = video if modality is Modality.VIDEO else audio
        result.append((modality, indices[key], sum(each[chunk] for chunk in members[key])))
    return result


def cosine(x: torch.Tensor, y: torch.Tensor) -> float:
    """Cosine in float64, rounded as in the library."""
    x, y = x.double(), y.double()
    norm = float(x.norm() * y.norm())
    return round(float(x @ y) / norm * 2**20) / 2**20 if norm > 0 else 0.0


def cosines(embeds: torch.Tensor, indices: list[int]) -> list[list[float]]:
    return [[cosine(embeds[i], embeds[j]) for j in indices] for i in indices]


def with_attention(stream: TokenStream) -> TokenStream:
    """``stream`` with positive attention that depends on a token's values only; 0 on tokens of other modalities."""
    strength = stream.embeds.float()[:, :3].square().sum(dim=1).nan_to_num(posinf=1.0)
    video = torch.where(stream.modality == Modality.VIDEO, strength, 0.0)
    audio = torch.where(stream.modality == Modality.AUDIO, strength, 0.0)
    return dataclasses.replace(stream, extras={"video_attention": video, "audio_attention_window": audio})


def check_counts(stream: TokenStream, result: Selection, budget: Budget, chunks: int = 1) -> None:
    """Check the budget's number in every window; all tokens outside chunks are kept unchanged."""
    for _, indices, kept in windows_of(stream, budget, chunks):
        assert int(result.keep[indices].sum()) == kept
    assert result.keep[stream.chunk < 0].all()
    if result.embeds is not None:
        assert result.embeds.shape == (int(result.keep.sum()), stream.width)
        outside = (stream.chunk < 0)[result.keep]
        unchanged = stream.embeds[stream.chunk < 0]
        torch.testing.assert_close(result.embeds[outside], unchanged, atol=0, rtol=0, equal_nan=True)


def check_contract(make: Callable[[Budget], Compressor], chunks: int = 1) -> None:
    """Check the contract: same result alone, in a batch and repeated; all kept at retain=1; exact counts always."""
    prompts = [steady_prompt(5, 9, 120, seed=1), steady_prompt(1, 7, 0, seed=2), steady_prompt(18, 4, 430, seed=3)]
    prompts += [random_prompt(seed, samples=1) for seed in range(5)]
    batch = with_attention(joined(prompts).stream())
    alone = [make(SPLIT)(with_attention(p.stream())) for p in prompts]
    together, again = make(SPLIT)(batch), make(SPLIT)(batch)
    assert torch.equal(together.keep, torch.cat([one.keep for one in alone]))
    assert torch.equal(together.keep, again.keep)
    assert not together.keep.all()
    if together.embeds is not None:
        rows = [p.embeds[one.keep] if one.embeds is None else one.embeds for p, one in zip(prompts, alone, strict=True)]
        torch.testing.assert_close(together.embeds, torch.cat(rows), atol=1e-5, rtol=1e-5)
        assert torch.equal(together.embeds, again.embeds)
    check_all_kept(make, batch)
    for broken in (0.0, 1.0, torch.nan, torch.inf):
        check_odd_input(make, broken, chunks)
    short = dataclasses.replace(batch, embeds=batch.embeds.bfloat16())
    result = make(SPLIT)(short)
    check_counts(short, result, SPLIT, chunks)
    assert result.embeds is None or result.embeds.dtype is torch.bfloat16


def check_all_kept(make: Callable[[Budget], Compressor], stream: TokenStream) -> None:
    """Check that nothing changes at retain=1, in a stream without clips, and in one without tokens."""
    empty = Prompt(torch.zeros(0, 16), *[torch.zeros(0, dtype=torch.int64)] * 3)
    text = random_prompt(0, samples=1, clips=0)
    for some, budget in ((stream, Budget(retain=1)), (empty.stream(), SPLIT), (text.stream(), SPLIT)):
        result = make(budget)(with_attention(some))
        assert result.keep.all()
        assert result.embeds is None or torch.equal(result.embeds, some.embeds)


def check_odd_input(make: Callable[[Budget], Compressor], value: float, chunks: int) -> None:
    """Check the counts for equal and for non-finite tokens; equal finite tokens keep their values."""
    prompt = steady_prompt(5, 9, 120)
    if value == value and abs(value) < 2:
        prompt.embeds[:] = value
    else:
        prompt.embeds[::3] = value
    stream = with_attention(prompt.stream())
    result = make(SPLIT)(stream)
    check_counts(stream, result, SPLIT, chunks)
    if result.embeds is not None and value == value and abs(value) < 2:
        torch.testing.assert_close(result.embeds, prompt.embeds[result.keep])
