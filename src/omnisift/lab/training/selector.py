"""Stage 4 of nano: train the selector by distillation, or with the paper's straight-through estimator.

Distillation trains VGAS alone to rank audio tokens by the full-token model's attention. The straight-through estimator
trains VGAS and language model together on answers; on nano it ends below an untrained selector (docs/log.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnisift.budget import kept_count
from omnisift.estimators.straight_through import topk_mask
from omnisift.lab.training.feature_cache import FeatureCache
from omnisift.lab.training.forward import KeptTokens, forward_packed
from omnisift.lab.training.losses import answer_losses
from omnisift.lab.training.nano_model import core_of
from omnisift.lab.training.packed import TYPE_WEIGHTS, PromptLayout, Writer, make_batch
from omnisift.lab.training.selections import (
    Select,
    audio_saliency,
    learned_video_scores,
    omnisift_selection,
    patches_of,
    select_with,
    selector_logits,
    stvp_scores,
    top_indices,
    video_scores,
)
from omnisift.lab.training.settings import NanoSettings
from omnisift.lab.training.teacher import attention_from_answers, eager_attention
from omnisift.training.loop import ParameterGroup, linear_schedule, train_steps
from omnisift.vgas import VGAS
from omnisift.video_score import VideoScore

logger = logging.getLogger(__name__)
ANCHOR_RETAINS = (0.35, 0.25, 0.15)
"""Each step draws one of these ratios for the video anchors, so that one set of weights works at all budgets."""


def attention_targets(
    nano: Any,
    layout: PromptLayout,
    writer: Writer,
    features: FeatureCache,
    settings: NanoSettings,
    with_pointer_head: bool = False,
    types: Mapping[str, float] = TYPE_WEIGHTS,
) -> Tensor:
    """The frozen full-token model's attention to audio tokens, as a target for the selector; no labels.

    Eight questions per clip ask about nearly everything in it. Attention is multiplied by a token's saliency, its
    distance from the mean of its chunk: silent tokens carry visual information and get attention too, and keeping them
    would displace audible events that belong to nothing visible.

    Args:
        nano: the model.
        layout: where the clip's tokens are in the prompt.
        writer: makes token ids of questions.
        features: the clips.
        settings: number of clips, and seed.
        with_pointer_head: see `attention_from_answers`.
        types: how often each question type is drawn.

    Returns:
        [N, 150] float32 in 0..1.
    """
    parts = []
    for batch in _question_batches(nano, writer, features, settings, types):
        novelty = 1 + audio_saliency(batch["audio"]).flatten(1)
        parts.append(attention_from_answers(nano, layout, batch, with_pointer_head) * novelty)
    targets = torch.cat(parts)
    return targets / targets.amax(-1, keepdim=True).clamp(min=1e-6)


def video_attention_targets(
    model: Any,
    layout: PromptLayout,
    writer: Writer,
    features: FeatureCache,
    settings: NanoSettings,
    with_pointer_head: bool = False,
) -> Tensor:
    """As `attention_targets`, for video tokens and without saliency: [N, 96] float32 in 0..1."""
    batches = _question_batches(model, writer, features, settings)
    return torch.cat(
        [attention_from_answers(model, layout, batch, with_pointer_head, layout.video) for batch in batches]
    )


def _question_batches(
    model: Any,
    writer: Writer,
    features: FeatureCache,
    settings: NanoSettings,
    types: Mapping[str, float] = TYPE_WEIGHTS,
) -> Iterator[dict[str, Tensor]]:
    """Sixteen clips at a time with their questions; the model returns attention weights meanwhile."""
    model.eval()
    with eager_attention(model):
        for first in range(0, min(settings.teacher_clips, len(features)), 16):
            clips = list(range(first, min(first + 16, settings.teacher_clips, len(features))))
            random = np.random.default_rng((settings.seed, 4, first))
            yield make_batch(features, clips, writer, 8, random, types=types)


def distill_video_score(
    video_score: VideoScore, targets: Tensor, features: FeatureCache, settings: NanoSettings
) -> None:
    """Train a learned video score in place on `video_attention_targets`."""

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((settings.seed, 7, step))
        clips = torch.from_numpy(rng.choice(len(targets), min(16, len(targets)), replace=False))
        logits = learned_video_scores(video_score, features.video[clips].float()).flatten(1)
        return F.binary_cross_entropy_with_logits(logits, targets[clips])

    _distill(video_score, loss_of, settings)


def distill(
    selector: VGAS, targets: Tensor, features: FeatureCache, settings: NanoSettings, shuffled_video: bool = False
) -> None:
    """Train ``selector`` in place on the targets of `attention_targets`.

    Args:
        selector: what is trained.
        targets: [N, 150].
        features: the clips.
        settings: steps, learning rate and seed.
        shuffled_video: show the selector another clip's video (a control).
    """

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((settings.seed, 6, step))
        clips = torch.from_numpy(rng.choice(len(targets), min(16, len(targets)), replace=False))
        video, audio = features.video[clips].float(), features.audio[clips].float()
        video = video.roll(1, 0) if shuffled_video else video
        retain = ANCHOR_RETAINS[int(rng.integers(len(ANCHOR_RETAINS)))]
        # Video anchors at the ratio of this step, then the audio logits given these anchors.
        anchors = top_indices(video_scores(selector, video), kept_count(patches_of(video), retain))
        logits = selector_logits(selector, video, audio, anchors).flatten(1)
        return F.binary_cross_entropy_with_logits(logits, targets[clips])

    def log(step: int, loss: float) -> None:
        if step % 50 == 0:
            logger.info("selector step %d loss %.3f %s", step, loss, kept_events(selector, features, 0.25, 60))

    _distill(selector, loss_of, settings, log)


def _distill(
    module: nn.Module,
    loss_of: Callable[[int], Tensor],
    settings: NanoSettings,
    after_step: Callable[[int, float], None] | None = None,
) -> None:
    groups = [ParameterGroup(list(module.parameters()), settings.selector_learning_rate)]
    schedule = linear_schedule(settings.selector_steps, floor=0.05)
    train_steps(loss_of, groups, settings.selector_steps, schedule, after_step=after_step)


def straight_through(
    selector: VGAS,
    nano: Any,
    layout: PromptLayout,
    writer: Writer,
    features: FeatureCache,
    settings: NanoSettings,
    steps: int,
) -> None:
    """The paper's training: cross-entropy of the answers at 25 %, model and selector together.

    Encoders are frozen. A kept token is multiplied by exactly 1 in the forward pass, and the gradient of that factor
    goes to its score; a dropped token gets no gradient.

    Args:
        selector: VGAS, trained in place.
        nano: the model, trained in place.
        layout, writer, features, settings: see `attention_targets`.
        steps: optimizer steps.
    """
    nano.requires_grad_(True).train()
    core_of(nano).visual.requires_grad_(False)
    core_of(nano).audio_tower.requires_grad_(False)
    language = [p for p in nano.parameters() if p.requires_grad]
    groups = [
        ParameterGroup(language, settings.finetune_learning_rate),
        ParameterGroup(list(selector.parameters()), settings.selector_learning_rate),
    ]

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((settings.seed, 5, step))
        clips = [int(i) for i in rng.choice(len(features), settings.clips_per_step, replace=False)]
        batch = make_batch(features, clips, writer, settings.questions, rng, types=TYPE_WEIGHTS)
        # Select at 25 %, gate the kept audio by its score, and read the answers.
        kept, gated = _gated(selector, batch, 0.25)
        return answer_losses(nano, forward_packed(nano, layout, gated, kept), batch)["answer"]

    def log(step: int, loss: float) -> None:
        if step % 25 == 0:
            logger.info("straight-through step %d loss %.3f %s", step, loss, kept_events(selector, features, 0.25, 60))

    train_steps(loss_of, groups, steps, linear_schedule(steps, decay=0.7), after_step=log)


def _gated(selector: VGAS, batch: dict[str, Tensor], retain: float) -> tuple[KeptTokens, dict[str, Tensor]]:
    """(kept tokens, batch whose kept audio is multiplied by the straight-through gate)."""
    scores = stvp_scores(batch["video"])
    anchors = top_indices(scores, kept_count(scores.shape[-1], retain))
    # Scores in (0, 1), the hard choice, and the gate: 1 forward, score backward.
    soft = torch.sigmoid(selector_logits(selector, batch["video"], batch["audio"], anchors))
    kept = select_with(scores, soft.detach(), retain)
    hard = torch.zeros_like(soft.flatten(1), dtype=torch.bool).scatter(1, kept.audio, True)
    gate = topk_mask(soft.flatten(1), hard)
    return kept, batch | {"audio": batch["audio"] * gate[..., None]}


@torch.no_grad()
def kept_events(selector: VGAS | Select, features: FeatureCache, retain: float, clips: int = 200) -> dict[str, float]:
    """What a selection keeps of the audio.

    Args:
        selector: VGAS, or a selection.
        features: the clips.
        retain: fraction of tokens kept.
        clips: number of clips, from the first.

    Returns:
        Share of ``relevant``, ``distractor`` and ``silent`` tokens that stay, and of ``events``, sounds of shapes of
        which at
        least one token stays.
    """
    select = omnisift_selection(selector, retain) if isinstance(selector, VGAS) else selector
    clips = min(clips, len(features))
    kept = select(features.video[:clips].float(), features.audio[:clips].float()).audio
    owner = features.audio_owner[:clips]
    mask = torch.zeros(owner.shape).scatter(1, kept, 1.0)
    events = [
        float(mask[i][owner[i] == 1 + e].any())
        for i in range(clips)
        for e in range(len(features.scenes[i].shapes))
        if (owner[i] == 1 + e).any()  # in the wide family some shapes are silent
    ]
    shares = {"relevant": owner > 0, "distractor": owner < 0, "silent": owner == 0}
    return {name: round(float(mask[where].mean()), 3) for name, where in shares.items()} | {
        "events": round(float(np.mean(events)), 3)
    }
