"""Train a selector to rank audio tokens by the attention that the full-token model pays them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnisift.budget import Budget
from omnisift.chunks import segment_of
from omnisift.compressors.omnisift import OmniSiftCompressor
from omnisift.compressors.salient import SalientCompressor
from omnisift.stvp import video_logits
from omnisift.tokens import Modality, TokenStream
from omnisift.training.distill.samples import DistillSample, stream_of
from omnisift.training.loop import ParameterGroup, linear_schedule, train_steps
from omnisift.vgas import VGAS
from omnisift.video_score import VideoScore

logger = logging.getLogger(__name__)
ANCHOR_RETAINS = (0.35, 0.25, 0.15)
"""Each step draws one of these ratios for the video anchors, so that one set of weights works at all budgets."""
BATCH_SIZE = 8


def audio_targets(samples: Sequence[DistillSample], weighted: bool = True) -> Tensor:
    """What the selector learns: attention to each audio token, scaled to a maximum of 1 per clip.

    Args:
        samples: the clips.
        weighted: multiply attention by the token's saliency, 1 - cosine to the mean of its chunk. Attention alone is
            also high on silent tokens, which carry visual information; keeping those displaces audible events.

    Returns:
        [L] float32 in 0..1 over the stream of ``samples``; NaN on all but the audio tokens of clips.
    """
    stream = stream_of(samples)
    value = torch.cat([sample.attention for sample in samples])
    if weighted:
        saliency = SalientCompressor(Budget(retain=0.5)).score(stream).float().cpu()
        value = value * saliency.clamp(min=0)
    return _scaled(value, stream, Modality.AUDIO, len(samples))


def video_targets(samples: Sequence[DistillSample]) -> Tensor:
    """Attention to each video token, unweighted, scaled to a maximum of 1 per clip.

    Returns:
        [L] float32 in 0..1; NaN on all but the video tokens of clips.
    """
    value = torch.cat([sample.attention for sample in samples])
    return _scaled(value, stream_of(samples), Modality.VIDEO, len(samples))


def _scaled(value: Tensor, stream: TokenStream, modality: Modality, rows: int) -> Tensor:
    mask = (stream.modality == int(modality)) & (stream.chunk >= 0)
    value = torch.where(mask, value, torch.nan)
    largest = torch.zeros(rows).scatter_reduce(0, stream.sample, value.nan_to_num(0.0), "amax")
    return value / largest[stream.sample].clamp(min=1e-12)


def scores_of(selector: VGAS, stream: TokenStream, retain: float) -> Tensor:
    """The selector's scores as the compressor computes them.

    Returns:
        [L] float in (0, 1), NaN where not scored; with a gradient if gradients are on.
    """
    compressor = OmniSiftCompressor(Budget(retain=retain), selector).train(torch.is_grad_enabled())
    scores: Tensor | None = compressor(stream).scores
    if scores is None:
        raise RuntimeError("the compressor returned no scores")
    return scores


def train_selector(
    selector: VGAS,
    samples: Sequence[DistillSample],
    max_steps: int,
    learning_rate: float,
    seed: int,
    weighted: bool = True,
    step: Callable[[], None] | None = None,
) -> list[float]:
    """Train ``selector`` in place with binary cross-entropy against `audio_targets`; deterministic.

    Args:
        selector: what is trained.
        samples: the training clips; each step draws eight.
        max_steps: optimizer steps (AdamW).
        learning_rate: its peak.
        seed: seed of the batches.
        weighted: see `audio_targets`.
        step: called after each step.

    Returns:
        The loss of each step.
    """

    def loss_of(batch: Sequence[DistillSample], retain: float) -> Tensor:
        scores, target = scores_of(selector, stream_of(batch), retain), audio_targets(batch, weighted)
        mask = ~scores.isnan() & ~target.isnan()
        return F.binary_cross_entropy(scores[mask].clamp(1e-6, 1 - 1e-6), target[mask])

    return _train(selector, loss_of, samples, max_steps, learning_rate, seed, step)


def train_video_score(
    video_score: VideoScore,
    samples: Sequence[DistillSample],
    max_steps: int,
    learning_rate: float,
    seed: int,
    step: Callable[[], None] | None = None,
) -> list[float]:
    """Train a learned video score in place against `video_targets`, with the arguments of `train_selector`.

    Train it before the selector, whose anchors it chooses.
    """

    def loss_of(batch: Sequence[DistillSample], _: float) -> Tensor:
        logits, target = video_logits(video_score, stream_of(batch)), video_targets(batch)
        mask = ~logits.isnan() & ~target.isnan()
        return F.binary_cross_entropy_with_logits(logits[mask], target[mask])

    return _train(video_score, loss_of, samples, max_steps, learning_rate, seed, step)


def _train(
    module: nn.Module,
    loss_of: Callable[[Sequence[DistillSample], float], Tensor],
    samples: Sequence[DistillSample],
    max_steps: int,
    learning_rate: float,
    seed: int,
    step: Callable[[], None] | None,
) -> list[float]:
    generator = torch.Generator().manual_seed(seed)

    def loss_of_step(_: int) -> Tensor:
        # Draw the clips and the anchor ratio of this step.
        chosen = torch.randperm(len(samples), generator=generator)[:BATCH_SIZE].tolist()
        retain = ANCHOR_RETAINS[int(torch.randint(len(ANCHOR_RETAINS), (), generator=generator))]
        return loss_of([samples[index] for index in chosen], retain)

    groups = [ParameterGroup(list(module.parameters()), learning_rate)]
    after_step = None if step is None else lambda *_: step()
    return train_steps(loss_of_step, groups, max_steps, linear_schedule(max_steps, floor=0.05), after_step=after_step)


@torch.no_grad()
def audio_agreement(
    score: Callable[[TokenStream, float], Tensor],
    samples: Sequence[DistillSample],
    retain: float,
    weighted: bool = True,
) -> dict[str, float]:
    """How well a score of audio tokens agrees with the model's attention; means over the clips.

    Args:
        score: (stream, retain) -> [L] scores, NaN where not scored.
        samples: clips that were not trained on.
        retain: fraction of the audio tokens that is kept in each chunk.
        weighted: see `audio_targets`.

    Returns:
        ``overlap``: share of the tokens with the highest targets that the score keeps; ``attention``: share of the sum
        of the targets that it keeps; ``rank``: Spearman's correlation of scores and targets.
    """
    return _agreement(score, samples, retain, lambda sample: audio_targets([sample], weighted))


@torch.no_grad()
def video_agreement(
    score: Callable[[TokenStream, float], Tensor], samples: Sequence[DistillSample], retain: float
) -> dict[str, float]:
    """As `audio_agreement`, for a score of video tokens, per frame, against `video_targets`."""
    return _agreement(score, samples, retain, lambda sample: video_targets([sample]))


def _agreement(
    score: Callable[[TokenStream, float], Tensor],
    samples: Sequence[DistillSample],
    retain: float,
    targets: Callable[[DistillSample], Tensor],
) -> dict[str, float]:
    measured: dict[str, list[float]] = {"overlap": [], "attention": [], "rank": []}
    for sample in samples:
        stream, target = stream_of([sample]), targets(sample)
        scores = score(stream, retain)
        compared = ~target.isnan() & ~scores.isnan()
        segment = segment_of(stream)
        # Keep the highest scores and the highest targets of every segment, at the same counts.
        kept, best = torch.zeros(len(stream), dtype=torch.bool), torch.zeros(len(stream), dtype=torch.bool)
        for part in sorted(set(segment[compared].tolist())):
            indices = torch.nonzero(compared & (segment == part))[:, 0]
            count = max(1, round(retain * len(indices)))
            kept[indices[scores[indices].topk(count).indices]] = True
            best[indices[target[indices].topk(count).indices]] = True
        measured["overlap"].append(float((kept & best).sum() / best.sum()))
        measured["attention"].append(float(target[kept].sum() / target[compared].sum()))
        ranks = torch.stack([value[compared].argsort().argsort().float() for value in (scores, target)])
        measured["rank"].append(float(torch.corrcoef(ranks)[0, 1]))
    return {name: round(sum(values) / len(values), 4) for name, values in measured.items()}
