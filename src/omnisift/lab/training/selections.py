"""The library's selection rules on the fixed shape of training clips of six seconds: three chunks of 2 frames and 50
audio tokens. A frame has 16 video tokens in the first family of the world and 100 in the wide one; the shapes below are
those of the first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.budget import kept_count
from omnisift.lab.training.forward import KeptTokens
from omnisift.stvp import spatial_similarity, temporal_similarity
from omnisift.vgas import VGAS
from omnisift.video_score import VideoScore

CHUNKS, PATCHES_PER_FRAME, AUDIO_PER_CHUNK = 3, 16, 50
Select = Callable[[Tensor, Tensor], KeptTokens]
"""(video [B, 96, D], audio [B, 150, D]) -> kept tokens."""


def patches_of(video: Tensor) -> int:
    """Tokens per frame of video [B, N, D]."""
    return video.shape[1] // (2 * CHUNKS)


def top_indices(scores: Tensor, count: int) -> Tensor:
    """Indices of the highest scores of every group.

    Args:
        scores: [B, G, N].
        count: kept per group; equal scores keep the lowest index.

    Returns:
        [B, G * count] int64, ascending indices into the flattened groups.
    """
    best = scores.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    start = torch.arange(scores.shape[1])[:, None] * scores.shape[2]
    return (best + start).flatten(1).sort(dim=1).values


def stvp_scores(video: Tensor) -> Tensor:
    """STVP (equations 2 to 4): video [B, 96, D] -> [B, 6, 16], saliency of every token by the rule of its frame."""
    pairs = video.view(-1, 2, patches_of(video), video.shape[-1])
    first, second = pairs[:, 0], pairs[:, 1]
    scores = -torch.stack([spatial_similarity(first), temporal_similarity(first, second)], dim=1)
    return scores.view(len(video), 2 * CHUNKS, -1)


def learned_video_scores(score: VideoScore, video: Tensor) -> Tensor:
    """Logits of a learned video score: video [B, 96, D] -> [B, 6, 16]."""
    pairs = video.view(-1, 2, patches_of(video), video.shape[-1])
    first, second = score(pairs[:, 0], pairs[:, 1])
    return torch.stack([first, second], dim=1).view(len(video), 2 * CHUNKS, -1)


@torch.no_grad()
def video_scores(selector: VGAS, video: Tensor) -> Tensor:
    """[B, 6, 16]: the selector's learned video score, or STVP's if it has none."""
    return stvp_scores(video) if selector.video_score is None else learned_video_scores(selector.video_score, video)


def audio_saliency(audio: Tensor) -> Tensor:
    """Distance of each audio token from the mean of its chunk: [B, 150, D] -> [B, 3, 50]; does not see the video."""
    parts = audio.view(len(audio), CHUNKS, AUDIO_PER_CHUNK, -1)
    return -F.cosine_similarity(parts, parts.mean(2, keepdim=True), dim=-1)


def select_with(video_scores: Tensor, audio_scores: Tensor, retain: float) -> KeptTokens:
    """Keep the highest scores of every frame and of the audio of every chunk."""
    return KeptTokens(
        top_indices(video_scores, kept_count(video_scores.shape[-1], retain)),
        top_indices(audio_scores, kept_count(AUDIO_PER_CHUNK, retain)),
    )


def random_scores(rows: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random scores for video [rows, 6, 16] and audio [rows, 3, 50]."""
    video = torch.rand(rows, 2 * CHUNKS, PATCHES_PER_FRAME, generator=rng)
    return video, torch.rand(rows, CHUNKS, AUDIO_PER_CHUNK, generator=rng)


def augmented(
    video: Tensor, audio: Tensor, retains: tuple[float, ...], rng: np.random.Generator, selector: VGAS | None = None
) -> KeptTokens:
    """A selection for retention augmentation: random, or STVP with random, salient or selected audio.

    Args:
        video: [B, 96, D].
        audio: [B, 150, D].
        retains: fractions to draw from.
        rng: draws the fraction and the kind of selection.
        selector: makes most of the audio selections, if given.
    """
    retain = float(retains[int(rng.integers(len(retains)))])
    noise = random_scores(len(video), torch.Generator().manual_seed(int(rng.integers(1 << 31))))
    kind = rng.random()
    if kind < 0.25:
        return select_with(*noise, retain)
    scores = stvp_scores(video)
    if selector is not None and kind > 0.4:
        return select_with(scores, selector_scores(selector, video, audio, scores, retain), retain)
    return select_with(scores, noise[1] if kind < 0.55 else audio_saliency(audio), retain)


def selector_logits(selector: VGAS, video: Tensor, audio: Tensor, anchors: Tensor) -> Tensor:
    """Logits of the selector (equations 5 to 9).

    Args:
        selector: VGAS.
        video: [B, 96, D].
        audio: [B, 150, D].
        anchors: [B, KV] ascending indices of the kept video tokens.

    Returns:
        [B, 3, 50].
    """
    rows, width, patches = len(video), video.shape[-1], patches_of(video)
    kept = video.gather(1, anchors[..., None].expand(-1, -1, width)).view(rows * CHUNKS, -1, width)
    video_step = (anchors % (2 * patches) // patches * 25).view(rows * CHUNKS, -1)
    audio_step = torch.arange(AUDIO_PER_CHUNK).expand(rows * CHUNKS, -1)
    sound = audio.view(rows * CHUNKS, AUDIO_PER_CHUNK, width)
    logits: Tensor = selector(kept, sound, video_step=video_step, audio_step=audio_step)
    return logits.view(rows, CHUNKS, AUDIO_PER_CHUNK)


@torch.no_grad()
def selector_scores(selector: VGAS, video: Tensor, audio: Tensor, video_scores: Tensor, retain: float) -> Tensor:
    """[B, 3, 50]: logits of the selector with the anchors that ``retain`` leaves; no gradient."""
    return selector_logits(
        selector, video, audio, top_indices(video_scores, kept_count(video_scores.shape[-1], retain))
    )


def omnisift_selection(selector: VGAS, retain: float) -> Select:
    """OmniSIFT as a function of the encoder outputs."""

    def select(video: Tensor, audio: Tensor) -> KeptTokens:
        scores = video_scores(selector, video)
        return select_with(scores, selector_scores(selector, video, audio, scores, retain), retain)

    return select


def random_selection(retain: float, seed: int = 0) -> Select:
    """Random tokens at the same counts."""
    rng = torch.Generator().manual_seed(seed)
    return lambda video, _audio: select_with(*random_scores(len(video), rng), retain)
