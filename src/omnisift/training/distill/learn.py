"""The selector learns to rank sounds as the full-token model's attention does, from lessons alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnisift.budget import Budget
from omnisift.chunks import segment_of
from omnisift.compressors.omnisift import OmniSiftCompressor
from omnisift.compressors.pruning import video_logits
from omnisift.compressors.salient import SalientCompressor
from omnisift.tokens import Modality, TokenStream
from omnisift.training.distill.samples import Lesson, stream_of
from omnisift.vgas import VGAS
from omnisift.video_score import VideoScore

logger = logging.getLogger(__name__)
ANCHOR_RETAINS = (0.35, 0.25, 0.15)
"""The selector sees the anchors of one of these in each step, so that one set of weights serves all budgets."""


def targets_of(lessons: Sequence[Lesson], weighted: bool = True) -> Tensor:
    """[L] float32 in 0..1 over the stream of ``lessons``, 1 is a clip's largest; NaN where a token is no clip's sound.

    ``weighted``: attention times how unlike its chunk's mean a token is (1 - cosine). Attention alone also rests on
    silent tokens, which carry what is on the screen; keeping those crowds sounds out (docs/log.md).
    """
    stream = stream_of(lessons)
    value = torch.cat([lesson.attention for lesson in lessons])
    if weighted:
        saliency = SalientCompressor(Budget(retain=0.5)).score(stream).float().cpu()
        value = value * saliency.clamp(min=0)
    audio = (stream.modality == int(Modality.AUDIO)) & (stream.chunk >= 0)
    value = torch.where(audio, value, torch.nan)
    largest = torch.zeros(len(lessons)).scatter_reduce(0, stream.sample, value.nan_to_num(0.0), "amax")
    return value / largest[stream.sample].clamp(min=1e-12)


def picture_targets_of(lessons: Sequence[Lesson]) -> Tensor:
    """[L] float32 in 0..1: attention alone, 1 is a clip's largest; NaN where a token is no clip's picture."""
    stream = stream_of(lessons)
    seen = (stream.modality == int(Modality.VIDEO)) & (stream.chunk >= 0)
    value = torch.where(seen, torch.cat([lesson.attention for lesson in lessons]), torch.nan)
    largest = torch.zeros(len(lessons)).scatter_reduce(0, stream.sample, value.nan_to_num(0.0), "amax")
    return value / largest[stream.sample].clamp(min=1e-12)


def scores_of(selector: VGAS, stream: TokenStream, retain: float) -> Tensor:
    """[L] float in (0, 1), NaN where not scored: as the compressor computes them; with a gradient in training."""
    compressor = OmniSiftCompressor(Budget(retain=retain), selector).train(torch.is_grad_enabled())
    scores: Tensor | None = compressor(stream).scores
    if scores is None:
        raise RuntimeError("the compressor gave no scores")
    return scores


def learn(
    selector: VGAS,
    lessons: Sequence[Lesson],
    steps: int,
    rate: float,
    seed: int,
    weighted: bool = True,
    step: Callable[[], None] | None = None,
) -> list[float]:
    """Train ``selector`` in place; returns the loss of each step. Eight clips a step, AdamW, the same on every run."""

    def loss_of(batch: Sequence[Lesson], retain: float) -> Tensor:
        scores, target = scores_of(selector, stream_of(batch), retain), targets_of(batch, weighted)
        where = ~scores.isnan() & ~target.isnan()
        return F.binary_cross_entropy(scores[where].clamp(1e-6, 1 - 1e-6), target[where])

    return _learn(selector, loss_of, lessons, steps, rate, seed, step)


def learn_picture(
    picture: VideoScore,
    lessons: Sequence[Lesson],
    steps: int,
    rate: float,
    seed: int,
    step: Callable[[], None] | None = None,
) -> list[float]:
    """Train the score for the picture in place, as `learn` does the selector; do it first: it chooses the anchors."""

    def loss_of(batch: Sequence[Lesson], _: float) -> Tensor:
        logits, target = video_logits(picture, stream_of(batch)), picture_targets_of(batch)
        where = ~logits.isnan() & ~target.isnan()
        return F.binary_cross_entropy_with_logits(logits[where], target[where])

    return _learn(picture, loss_of, lessons, steps, rate, seed, step)


def _learn(
    module: nn.Module,
    loss_of: Callable[[Sequence[Lesson], float], Tensor],
    lessons: Sequence[Lesson],
    steps: int,
    rate: float,
    seed: int,
    step: Callable[[], None] | None,
) -> list[float]:
    random = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(module.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    losses = []
    for number in range(steps):
        chosen = torch.randperm(len(lessons), generator=random)[:8].tolist()
        retain = ANCHOR_RETAINS[int(torch.randint(len(ANCHOR_RETAINS), (), generator=random))]
        loss = loss_of([lessons[index] for index in chosen], retain)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (number + 1) / 20) * max(0.05, min(1.0, 2 * (steps - number) / steps))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
        if step is not None:
            step()
    return losses


@torch.no_grad()
def agreement(
    score: Callable[[TokenStream, float], Tensor], lessons: Sequence[Lesson], retain: float, weighted: bool = True
) -> dict[str, float]:
    """How far a score of sounds agrees with the teacher on ``lessons``: means over the clips.

    ``overlap``: share of the teacher's own choice that the score keeps, chunk by chunk, at ``retain``; ``attention``:
    share of the targets of `targets_of` that it keeps; ``rank``: Spearman's correlation.
    """
    return _agreement(score, lessons, retain, lambda lesson: targets_of([lesson], weighted))


@torch.no_grad()
def picture_agreement(
    score: Callable[[TokenStream, float], Tensor], lessons: Sequence[Lesson], retain: float
) -> dict[str, float]:
    """As `agreement`, of a score of patches, frame by frame, with `picture_targets_of`."""
    return _agreement(score, lessons, retain, lambda lesson: picture_targets_of([lesson]))


def _agreement(
    score: Callable[[TokenStream, float], Tensor],
    lessons: Sequence[Lesson],
    retain: float,
    targets: Callable[[Lesson], Tensor],
) -> dict[str, float]:
    found: dict[str, list[float]] = {"overlap": [], "attention": [], "rank": []}
    for lesson in lessons:
        stream, target = stream_of([lesson]), targets(lesson)
        scores = score(stream, retain)
        compared = ~target.isnan() & ~scores.isnan()
        segment = segment_of(stream)
        kept, wanted = torch.zeros(len(stream), dtype=torch.bool), torch.zeros(len(stream), dtype=torch.bool)
        for part in sorted(set(segment[compared].tolist())):
            here = torch.nonzero(compared & (segment == part))[:, 0]
            count = max(1, round(retain * len(here)))
            kept[here[scores[here].topk(count).indices]] = True
            wanted[here[target[here].topk(count).indices]] = True
        found["overlap"].append(float((kept & wanted).sum() / wanted.sum()))
        found["attention"].append(float(target[kept].sum() / target[compared].sum()))
        ranks = torch.stack([value[compared].argsort().argsort().float() for value in (scores, target)])
        found["rank"].append(float(torch.corrcoef(ranks)[0, 1]))
    return {name: round(sum(values) / len(values), 4) for name, values in found.items()}
