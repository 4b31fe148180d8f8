"""One selector, trained by one estimator, on nano's packed clips: what `benchmarks/estimators.py` compares.

Video is STVP's in all cases; what differs is how the selector learns which sounds to keep. The language model is
frozen, or (``joint``) learns along as in the paper. Distillation is the same loop with another loss.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnisift.budget import kept_count
from omnisift.estimators import Choice, Estimator, make_estimator
from omnisift.estimators.reinforce import leave_one_out
from omnisift.training.feature_cache import FeatureCache
from omnisift.training.forward import Kept, Pass, run
from omnisift.training.host import core_of
from omnisift.training.packed import CAPTION, IGNORE, TYPE_WEIGHTS, Layout, Writer, make_batch
from omnisift.training.selections import CHUNKS, PATCHES, SOUNDS_PER_CHUNK, selector_logits, stvp_scores, top
from omnisift.vgas import VGAS

DISTIL = "distil"
"""The name of the way that needs no estimator."""
Batch = dict[str, Tensor]


@dataclass
class Course:
    """What a run learns from: the model that reads, the clips, the size of a step."""

    model: Any
    layout: Layout
    writer: Writer
    bank: FeatureCache
    targets: Tensor
    """[N, 150] in 0..1 of the first N clips: what the full-token model looks at; only distillation reads it."""
    clips: int = 8
    questions: int = 16
    retain: float = 0.25
    blind: bool = False
    """Whether the selector is shown another clip's picture (a control)."""


@dataclass
class Curve:
    """What a run noted step by step."""

    loss: list[float] = field(default_factory=list)
    seconds: float = 0.0
    """CPU seconds of all steps."""


def learn(selector: VGAS, way: str, course: Course, steps: int, rate: float, seed: int, joint: bool = False) -> Curve:
    """Train ``selector`` in place by ``way``, an estimator's name or `DISTIL`; with ``joint`` the language model too.

    AdamW with 20 steps of warm-up and a linear end; gradients clipped at 1. The language model learns at 5e-4.
    """
    estimator = None if way == DISTIL else make_estimator(way)
    torch.manual_seed(seed)
    optimizer = _optimizer(selector, course.model, rate, joint)
    curve, begin = Curve(), time.process_time()
    for step in range(steps):
        batch, clips = draw(course, seed, step)
        if estimator is None:
            loss = _distilled(selector, course, batch, clips)
            value = float(loss.detach())
        else:
            estimator.progress = step / steps
            loss, value = estimated(selector, estimator, course, batch, through_model=joint)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * min(1.0, (step + 1) / 20) * max(0.02, min(1.0, 2 * (steps - step) / steps))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for group in optimizer.param_groups:
            nn.utils.clip_grad_norm_(group["params"], 1.0)
        optimizer.step()
        curve.loss.append(round(value, 4))
    curve.seconds = round(time.process_time() - begin, 1)
    return curve


def _optimizer(selector: VGAS, model: Any, rate: float, joint: bool) -> torch.optim.Optimizer:
    model.requires_grad_(joint)
    core_of(model).visual.requires_grad_(False)
    core_of(model).audio_tower.requires_grad_(False)
    groups: list[dict[str, Any]] = [{"params": list(selector.parameters()), "peak": rate}]
    if joint:
        groups.append({"params": [p for p in model.parameters() if p.requires_grad], "peak": 5e-4})
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)


def draw(course: Course, seed: int, step: int) -> tuple[Batch, Tensor]:
    """The batch of one step and its clips; the same for every way."""
    rng = np.random.default_rng((seed, 9, step))
    clips = [int(i) for i in rng.choice(len(course.targets), course.clips, replace=False)]
    batch = make_batch(course.bank, clips, course.writer, course.questions, rng, types=TYPE_WEIGHTS)
    return batch, torch.tensor(clips)


def guided(selector: VGAS, course: Course, batch: Batch, retain: float) -> tuple[Tensor, Tensor]:
    """(logits [B, 3, 50] of the sounds, places [B, KV] of the anchors)."""
    anchors = top(stvp_scores(batch["video"]), kept_count(PATCHES, retain))
    seen, shown = batch["video"], anchors
    if course.blind:
        seen = seen.roll(1, 0)
        shown = top(stvp_scores(seen), kept_count(PATCHES, retain))
    return selector_logits(selector, seen, batch["audio"], shown), anchors


def _distilled(selector: VGAS, course: Course, batch: Batch, clips: Tensor) -> Tensor:
    retain = (0.35, 0.25, 0.15)[int(clips.sum()) % 3]
    logits, _ = guided(selector, course, batch, retain)
    return F.binary_cross_entropy_with_logits(logits.flatten(1), course.targets[clips])


def estimated(
    selector: VGAS, estimator: Estimator, course: Course, batch: Batch, through_model: bool
) -> tuple[Tensor, float]:
    """(what to differentiate, mean loss of the answers) of one step."""
    logits, anchors = guided(selector, course, batch, course.retain)
    groups = logits.view(-1, SOUNDS_PER_CHUNK)
    count = torch.full((len(groups),), kept_count(SOUNDS_PER_CHUNK, course.retain))
    if estimator.samples == 1:
        loss = read(course, batch, anchors, estimator.choose(groups, count)).mean()
        return loss, float(loss.detach())
    choices = [estimator.choose(groups, count) for _ in range(estimator.samples)]
    with torch.set_grad_enabled(through_model):
        losses = torch.stack([read(course, batch, anchors, choice) for choice in choices])  # [S, B]
    log_prob = torch.stack([_of_rows(choice) for choice in choices])
    reward = (leave_one_out(losses.detach()) * log_prob).mean()
    return (reward + losses.mean() if through_model else reward), float(losses.detach().mean())


def _of_rows(choice: Choice) -> Tensor:
    if choice.log_prob is None:
        raise ValueError("an estimator with several samples must give log_prob")
    return choice.log_prob.view(-1, CHUNKS).sum(dim=1)


def read(course: Course, batch: Batch, anchors: Tensor, choice: Choice) -> Tensor:
    """[B]: mean loss of each clip's answers, when the model reads what ``choice`` leaves of the sound."""
    rows = len(batch["audio"])
    keep = choice.keep.view(rows, -1)
    places = torch.nonzero(keep, as_tuple=True)[1].view(rows, -1)
    audio, bias = batch["audio"], None
    if choice.mix is not None:
        parts = audio.view(rows * CHUNKS, SOUNDS_PER_CHUNK, -1)
        audio = (choice.mix @ parts).view_as(audio)
    if choice.gate is not None:
        audio = audio * choice.gate.view(rows, -1, 1)
    if choice.bias is not None:
        bias = choice.bias.view(rows, -1).gather(1, places)
    return answer_loss(
        course.model,
        run(course.model, course.layout, batch | {"audio": audio}, Kept(anchors, places), bias=bias),
        batch,
    )


def answer_loss(model: Any, out: Pass, batch: Batch) -> Tensor:
    """[B]: mean cross-entropy of each clip's answers."""
    labels = torch.where(batch["kind"] < CAPTION, batch["labels"], IGNORE)
    due = labels != IGNORE
    each = F.cross_entropy(model.lm_head(out.last[:, out.prefix :][due]), labels[due], reduction="none")
    total = each.new_zeros(len(labels)).index_add(0, torch.nonzero(due, as_tuple=True)[0], each)
    return total / due.sum(dim=1).clamp(min=1)
