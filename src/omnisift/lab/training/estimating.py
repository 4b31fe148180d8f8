"""Train one selector with one estimator on packed clips, for the estimators' benchmarks in `benchmarks/accuracy`.

STVP selects video in all cases; the estimators differ in how the selector learns which audio to keep. The language
model is frozen, or (``joint``) trained along as in the paper. Distillation is the same loop with another loss.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.budget import kept_count
from omnisift.estimators import Choice, Estimator, make_estimator
from omnisift.estimators.reinforce import leave_one_out
from omnisift.lab.training.feature_cache import FeatureCache
from omnisift.lab.training.forward import KeptTokens, PackedOutput, forward_packed
from omnisift.lab.training.nano_model import core_of
from omnisift.lab.training.packed import CAPTION, TYPE_WEIGHTS, PromptLayout, Writer, make_batch
from omnisift.lab.training.selections import (
    AUDIO_PER_CHUNK,
    CHUNKS,
    patches_of,
    selector_logits,
    stvp_scores,
    top_indices,
)
from omnisift.models.prompt_cut import IGNORE_INDEX
from omnisift.training.loop import ParameterGroup, linear_schedule, train_steps
from omnisift.vgas import VGAS

DISTILLATION = "distil"
"""Name of the method that needs no estimator; the spelling is that of committed results."""
Batch = dict[str, Tensor]


@dataclass
class EstimatorConfig:
    """What a run learns from: the model, the clips, and the size of a step."""

    model: Any
    layout: PromptLayout
    writer: Writer
    features: FeatureCache
    targets: Tensor
    """[N, 150] in 0..1: the full-token model's attention over the first N clips; used by distillation only."""
    clips: int = 8
    """Clips per step."""
    questions: int = 16
    """Questions per clip."""
    retain: float = 0.25
    """Fraction of tokens kept."""
    tight: float | None = None
    """Fraction kept in every second step of an estimator; None means ``retain`` in all."""
    types: Mapping[str, float] = field(default_factory=lambda: TYPE_WEIGHTS)
    """How often each question type is drawn."""
    shuffled_video: bool = False
    """Whether the selector sees another clip's video (a control)."""


@dataclass
class Curve:
    """Measurements of a run."""

    loss: list[float] = field(default_factory=list)
    """Loss of each step."""
    seconds: float = 0.0
    """CPU seconds of all steps."""


def train_with(
    selector: VGAS,
    method: str,
    config: EstimatorConfig,
    steps: int,
    learning_rate: float,
    seed: int,
    joint: bool = False,
) -> Curve:
    """Train ``selector`` in place.

    Args:
        selector: what is trained.
        method: name of an estimator, or `DISTILLATION`.
        config: model, clips and step size.
        steps: optimizer steps.
        learning_rate: peak learning rate of the selector.
        seed: seed of batches and estimators.
        joint: train the language model too, at 5e-4.
    """
    estimator = None if method == DISTILLATION else make_estimator(method)
    torch.manual_seed(seed)
    curve, begin = Curve(), time.process_time()

    def loss_of(step: int) -> Tensor:
        batch, clips = sample_batch(config, seed, step)
        if estimator is None:
            loss = _distillation_loss(selector, config, batch, clips)
            value = float(loss.detach())
        else:
            estimator.progress = step / steps
            retain = config.retain if config.tight is None or step % 2 == 0 else config.tight
            here = replace(config, retain=retain)
            loss, value = estimator_loss(selector, estimator, here, batch, through_model=joint)
        curve.loss.append(round(value, 4))
        return loss

    groups = _groups(selector, config.model, learning_rate, joint)
    train_steps(loss_of, groups, steps, linear_schedule(steps))
    curve.seconds = round(time.process_time() - begin, 1)
    return curve


def _groups(selector: VGAS, model: Any, learning_rate: float, joint: bool) -> list[ParameterGroup]:
    model.requires_grad_(joint)
    core_of(model).visual.requires_grad_(False)
    core_of(model).audio_tower.requires_grad_(False)
    groups = [ParameterGroup(list(selector.parameters()), learning_rate)]
    if joint:
        groups.append(ParameterGroup([p for p in model.parameters() if p.requires_grad], 5e-4))
    return groups


def sample_batch(config: EstimatorConfig, seed: int, step: int) -> tuple[Batch, Tensor]:
    """(the batch of one step, its clips [B]); the same for every method."""
    rng = np.random.default_rng((seed, 9, step))
    clips = [int(i) for i in rng.choice(len(config.targets), config.clips, replace=False)]
    batch = make_batch(config.features, clips, config.writer, config.questions, rng, types=config.types)
    return batch, torch.tensor(clips)


def audio_logits(selector: VGAS, config: EstimatorConfig, batch: Batch, retain: float) -> tuple[Tensor, Tensor]:
    """(logits [B, 3, 50] of the audio tokens, kept video tokens [B, KV])."""
    count = kept_count(patches_of(batch["video"]), retain)
    anchors = top_indices(stvp_scores(batch["video"]), count)
    video, visible = batch["video"], anchors
    if config.shuffled_video:
        video = video.roll(1, 0)
        visible = top_indices(stvp_scores(video), count)
    return selector_logits(selector, video, batch["audio"], visible), anchors


def _distillation_loss(selector: VGAS, config: EstimatorConfig, batch: Batch, clips: Tensor) -> Tensor:
    retain = (0.35, 0.25, 0.15)[int(clips.sum()) % 3]
    logits, _ = audio_logits(selector, config, batch, retain)
    return F.binary_cross_entropy_with_logits(logits.flatten(1), config.targets[clips])


def estimator_loss(
    selector: VGAS, estimator: Estimator, config: EstimatorConfig, batch: Batch, through_model: bool
) -> tuple[Tensor, float]:
    """One step of an estimator.

    Args:
        selector: gives the logits.
        estimator: makes a choice with a gradient from them.
        config: model and step size.
        batch: packed questions.
        through_model: whether gradients are also needed in the language model.

    Returns:
        (what to differentiate, mean loss of the answers).
    """
    logits, anchors = audio_logits(selector, config, batch, config.retain)
    groups = logits.view(-1, AUDIO_PER_CHUNK)
    count = torch.full((len(groups),), kept_count(AUDIO_PER_CHUNK, config.retain))
    if estimator.samples == 1:
        loss = choice_loss(config, batch, anchors, estimator.choose(groups, count)).mean()
        return loss, float(loss.detach())
    # REINFORCE: several sampled choices, each with its log-probability.
    choices = [estimator.choose(groups, count) for _ in range(estimator.samples)]
    with torch.set_grad_enabled(through_model):
        losses = torch.stack([choice_loss(config, batch, anchors, choice) for choice in choices])  # [S, B]
    log_prob = torch.stack([_row_log_probs(choice) for choice in choices])
    # Each choice is weighted by its loss against the mean of the others.
    reward = (leave_one_out(losses.detach()) * log_prob).mean()
    return (reward + losses.mean() if through_model else reward), float(losses.detach().mean())


def _row_log_probs(choice: Choice) -> Tensor:
    if choice.log_prob is None:
        raise ValueError("an estimator with several samples must give log_prob")
    return choice.log_prob.view(-1, CHUNKS).sum(dim=1)


def choice_loss(config: EstimatorConfig, batch: Batch, anchors: Tensor, choice: Choice) -> Tensor:
    """[B]: mean loss of each clip's answers when the model reads the audio that ``choice`` leaves."""
    rows = len(batch["audio"])
    keep = choice.keep.view(rows, -1)
    kept_index = torch.nonzero(keep, as_tuple=True)[1].view(rows, -1)
    audio, bias = batch["audio"], None
    # Apply what the estimator does to kept tokens: merge, rescale, or bias their attention.
    if choice.mix is not None:
        parts = audio.view(rows * CHUNKS, AUDIO_PER_CHUNK, -1)
        audio = (choice.mix @ parts).view_as(audio)
    if choice.gate is not None:
        audio = audio * choice.gate.view(rows, -1, 1)
    if choice.bias is not None:
        bias = choice.bias.view(rows, -1).gather(1, kept_index)
    return answer_loss(
        config.model,
        forward_packed(
            config.model, config.layout, batch | {"audio": audio}, KeptTokens(anchors, kept_index), bias=bias
        ),
        batch,
    )


def answer_loss(model: Any, out: PackedOutput, batch: Batch) -> Tensor:
    """[B]: mean cross-entropy of each clip's answers."""
    labels = torch.where(batch["kind"] < CAPTION, batch["labels"], IGNORE_INDEX)
    due = labels != IGNORE_INDEX
    each = F.cross_entropy(model.lm_head(out.last[:, out.prefix :][due]), labels[due], reduction="none")
    total = each.new_zeros(len(labels)).index_add(0, torch.nonzero(due, as_tuple=True)[0], each)
    return total / due.sum(dim=1).clamp(min=1)
