"""Selections for training: the library's own rules, in the fixed rectangles of a 6 s clip (3 chunks of 2 x 16 + 50)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.budget import kept_count
from omnisift.stvp import spatial_similarity, temporal_similarity
from omnisift.training.forward import Kept
from omnisift.vgas import VGAS
from omnisift.video_score import VideoScore

CHUNKS, PATCHES, SOUNDS_PER_CHUNK = 3, 16, 50
Select = Callable[[Tensor, Tensor], Kept]
"""(video [B, 96, D], audio [B, 150, D]) -> what stays."""


def top(scores: Tensor, count: int) -> Tensor:
    """Scores [B, G, N] -> flat places [B, G * count], rising; equal scores keep the lowest index."""
    best = scores.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    start = torch.arange(scores.shape[1])[:, None] * scores.shape[2]
    return (best + start).flatten(1).sort(dim=1).values


def stvp_scores(video: Tensor) -> Tensor:
    """[B, 96, D] -> [B, 6, 16]: saliency of every video token, the two frames of a chunk by their own rules."""
    pairs = video.view(-1, 2, PATCHES, video.shape[-1])
    first, second = pairs[:, 0], pairs[:, 1]
    scores = -torch.stack([spatial_similarity(first), temporal_similarity(first, second)], dim=1)
    return scores.view(len(video), 2 * CHUNKS, PATCHES)


def picture_scores(picture: VideoScore, video: Tensor) -> Tensor:
    """[B, 96, D] -> [B, 6, 16]: logits of a learned score."""
    pairs = video.view(-1, 2, PATCHES, video.shape[-1])
    first, second = picture(pairs[:, 0], pairs[:, 1])
    return torch.stack([first, second], dim=1).view(len(video), 2 * CHUNKS, PATCHES)


@torch.no_grad()
def video_scores(selector: VGAS, video: Tensor) -> Tensor:
    """[B, 6, 16]: what ``selector`` ranks the picture by, its own score or STVP's."""
    return stvp_scores(video) if selector.picture is None else picture_scores(selector.picture, video)


def audio_saliency(audio: Tensor) -> Tensor:
    """[B, 150, D] -> [B, 3, 50]: how unlike its chunk's mean a token is. Blind to the picture."""
    parts = audio.view(len(audio), CHUNKS, SOUNDS_PER_CHUNK, -1)
    return -F.cosine_similarity(parts, parts.mean(2, keepdim=True), dim=-1)


def select_with(video_scores: Tensor, audio_scores: Tensor, retain: float) -> Kept:
    """The highest scores of every frame and of every chunk's sound."""
    return Kept(top(video_scores, kept_count(PATCHES, retain)), top(audio_scores, kept_count(SOUNDS_PER_CHUNK, retain)))


def random_scores(rows: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Scores that mean nothing, for video and audio."""
    video = torch.rand(rows, 2 * CHUNKS, PATCHES, generator=rng)
    return video, torch.rand(rows, CHUNKS, SOUNDS_PER_CHUNK, generator=rng)


def augmented(
    video: Tensor, audio: Tensor, retains: tuple[float, ...], rng: np.random.Generator, selector: VGAS | None = None
) -> Kept:
    """A selection for training: all random, or STVP with random, salient or the selector's choice of sound."""
    retain = float(retains[int(rng.integers(len(retains)))])
    noise = random_scores(len(video), torch.Generator().manual_seed(int(rng.integers(1 << 31))))
    way = rng.random()
    if way < 0.25:
        return select_with(*noise, retain)
    scores = stvp_scores(video)
    if selector is not None and way > 0.4:
        return select_with(scores, selector_scores(selector, video, audio, scores, retain), retain)
    return select_with(scores, noise[1] if way < 0.55 else audio_saliency(audio), retain)


def selector_logits(selector: VGAS, video: Tensor, audio: Tensor, anchors: Tensor) -> Tensor:
    """[B, 3, 50] logits of the sound tokens. ``anchors`` [B, KV]: places of the kept video tokens, rising."""
    rows, width = len(video), video.shape[-1]
    kept = video.gather(1, anchors[..., None].expand(-1, -1, width)).view(rows * CHUNKS, -1, width)
    video_step = (anchors % (2 * PATCHES) // PATCHES * 25).view(rows * CHUNKS, -1)
    audio_step = torch.arange(SOUNDS_PER_CHUNK).expand(rows * CHUNKS, -1)
    sound = audio.view(rows * CHUNKS, SOUNDS_PER_CHUNK, width)
    logits: Tensor = selector(kept, sound, video_step=video_step, audio_step=audio_step)
    return logits.view(rows, CHUNKS, SOUNDS_PER_CHUNK)


@torch.no_grad()
def selector_scores(selector: VGAS, video: Tensor, audio: Tensor, video_scores: Tensor, retain: float) -> Tensor:
    """[B, 3, 50]: the selector's opinion, given the anchors that ``retain`` leaves."""
    return selector_logits(selector, video, audio, top(video_scores, kept_count(PATCHES, retain)))


def omnisift(selector: VGAS, retain: float) -> Select:
    """The method itself, as a function of the encoder outputs."""

    def select(video: Tensor, audio: Tensor) -> Kept:
        scores = video_scores(selector, video)
        return select_with(scores, selector_scores(selector, video, audio, scores, retain), retain)

    return select


def random(retain: float, seed: int = 0) -> Select:
    """The same counts, drawn blindly."""
    rng = torch.Generator().manual_seed(seed)
    return lambda video, _audio: select_with(*random_scores(len(video), rng), retain)
