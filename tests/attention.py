"""Made-up encoder attention, batches of prompts, and readable arithmetic, for methods that need attention."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from tests.geometry import Prompt

from omnisift.tokens import Modality, TokenStream


def with_attention(stream: TokenStream) -> TokenStream:
    """``stream`` with positive attention at its tokens, 0 elsewhere.

    Made from the embeddings' first channels, so that a clip has the same alone and in a batch.
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
    """Of two vectors; 0 if one is zero."""
    length = float(a.norm() * b.norm())
    return float(a @ b) / length if length > 0 else 0.0


def highest(scores: Sequence[float], count: int) -> list[int]:
    """Indices of the ``count`` highest, the first of equal ones; sorted."""
    return sorted(sorted(range(len(scores)), key=lambda i: -scores[i])[:count])


def shared(total: int, pull: list[float], room: list[int]) -> list[int]:
    """Largest remainder, the full ones first."""
    share, rest = [0.0] * len(pull), [i for i in range(len(pull)) if room[i] > 0]
    while rest:
        left = total - sum(share[i] for i in range(len(share)) if i not in rest)
        weight = {i: pull[i] for i in rest}
        if sum(weight.values()) <= 0:
            weight = {i: float(room[i]) for i in rest}
        for i in rest:
            share[i] = left * weight[i] / sum(weight.values())
        full = [i for i in rest if share[i] >= room[i]]
        for i in full:
            share[i] = float(room[i])
        if not full:
            break
        rest = [i for i in rest if i not in full]
    complete = [min(math.floor(s + 1e-9), r) for s, r in zip(share, room, strict=True)]
    remainder = [round(s - w, 9) if w < r else -1.0 for s, w, r in zip(share, complete, room, strict=True)]
    for i in highest(remainder, total - sum(complete)):
        complete[i] += 1
    return complete
