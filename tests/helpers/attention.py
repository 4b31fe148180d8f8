"""Random encoder attention, batches of prompts, and plain arithmetic to compare methods with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from tests.helpers.geometry import Prompt

from omnisift.tokens import Modality, TokenStream


def with_attention(stream: TokenStream) -> TokenStream:
    """``stream`` with positive attention at its tokens, 0 elsewhere.

    It is computed from the embeddings' first channels, so that a clip has the same attention alone and in a batch.
    """
    audio, video = stream.modality == Modality.AUDIO, stream.modality == Modality.VIDEO
    power = stream.embeds[:, :3].exp()
    extras = {
        "audio_attention": power[:, 0] * audio,
        "audio_attention_window": power[:, 1] * audio,
        "video_attention": power[:, 2] * video,
    }
    return dataclasses.replace(stream, extras=extras)


def in_one_batch(prompts: Sequence[Prompt]) -> Prompt:
    """Prompts of one row each, as the rows of one batch."""
    return Prompt(
        torch.cat([p.embeds for p in prompts]),
        torch.cat([p.modality for p in prompts]),
        torch.cat([p.temporal for p in prompts]),
        torch.cat([p.sample + row for row, p in enumerate(prompts)]),
    )


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """Cosine of two vectors; 0 if one is zero."""
    length = float(a.norm() * b.norm())
    return float(a @ b) / length if length > 0 else 0.0


def highest(scores: Sequence[float], count: int) -> list[int]:
    """Return the sorted indices of the ``count`` highest scores; of equal scores the first."""
    return sorted(sorted(range(len(scores)), key=lambda i: -scores[i])[:count])


def shared(total: int, pull: list[float], limit: list[int]) -> list[int]:
    """Divide ``total`` by largest remainder in proportion to ``pull``; parts at their ``limit`` are fixed first."""
    share, rest = [0.0] * len(pull), [i for i in range(len(pull)) if limit[i] > 0]
    while rest:
        left = total - sum(share[i] for i in range(len(share)) if i not in rest)
        weight = {i: pull[i] for i in rest}
        if sum(weight.values()) <= 0:
            weight = {i: float(limit[i]) for i in rest}
        for i in rest:
            share[i] = left * weight[i] / sum(weight.values())
        full = [i for i in rest if share[i] >= limit[i]]
        for i in full:
            share[i] = float(limit[i])
        if not full:
            break
        rest = [i for i in rest if i not in full]
    parts = [min(math.floor(s + 1e-9), r) for s, r in zip(share, limit, strict=True)]
    remainder = [round(s - w, 9) if w < r else -1.0 for s, w, r in zip(share, parts, limit, strict=True)]
    for i in highest(remainder, total - sum(parts)):
        parts[i] += 1
    return parts
