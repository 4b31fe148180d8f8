"""Fine-tuning of a language model on streams of up to a minute from which old tokens were thinned out.

Encoders, embeddings and head stay as they are. All streams of a step have one length; each is under a policy at random:
everything kept, a window, budgets that fall with age, or a memory (`omnisift.lab.training.stream_policies`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.lab.training.nano_model import language_model_of
from omnisift.lab.training.packed import CAPTION, Writer
from omnisift.lab.training.stream_bank import StreamBank
from omnisift.lab.training.stream_batches import (
    Row,
    StreamBatch,
    choose_fillers,
    draw_row,
    lay_out,
    segment_of,
)
from omnisift.lab.training.stream_policies import any_policy
from omnisift.lab.training.stream_scenes import stream_questions
from omnisift.models.prompt_cut import IGNORE_INDEX
from omnisift.streaming.policies import Policy
from omnisift.training.loop import Checkpoint, ParameterGroup, linear_schedule, train_steps
from omnisift.world import WIDE_TYPES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LongSettings:
    """Numbers of a run."""

    steps: int = 1200
    """Optimizer steps."""
    learning_rate: float = 6e-4
    """Peak learning rate."""
    weight_decay: float = 0.02
    """Weight decay."""
    streams: int = 10
    """Streams of a step."""
    questions: int = 12
    """Questions about each stream."""
    clips: int = 10
    """Most clips of six seconds in a stream."""
    short_share: float = 0.2
    """Share of the steps on one clip, half of them with all tokens, as the model knows them."""
    seed: int = 0
    """Seed of the batches."""

    def as_dict(self) -> dict[str, Any]:
        """The fields as a dictionary, for ``recipe.json``."""
        return asdict(self)


def stream_loss(
    model: Any, bank: StreamBank, writer: Writer, settings: LongSettings, types: Mapping[str, float], step: int
) -> tuple[Tensor, dict[str, float]]:
    """The loss of a step, whose streams are drawn by the seed and the number of the step.

    Returns:
        (loss of the answers, question type -> its mean loss).
    """
    rng = np.random.default_rng((settings.seed, 11, step))
    clips = 1 if rng.random() < settings.short_share else int(rng.integers(2, settings.clips + 1))
    budget = str(rng.choice(("all", "25%"))) if clips == 1 else str(rng.choice(("25%", "10%"), p=(0.8, 0.2)))
    rows = [
        draw_row(bank, writer, rng, budget, clips, settings.questions, types)
        for _ in range(settings.streams if budget != "all" else settings.streams // 2)
    ]
    tokens = len(rows[0].units[0].offset)
    policies = [any_policy(tokens, rng) for _ in rows]
    states, tails = answered(model, bank, rows, policies)
    due = tails["labels"] != IGNORE_INDEX
    losses = F.cross_entropy(model.lm_head(states[due]), tails["labels"][due], reduction="none")
    kinds = tails["kind"][due]
    # The end of an answer is known after a few steps; its loss counts less.
    weight = torch.where(kinds < CAPTION, 1.0, 0.1)
    asked = [kind for kind in torch.unique(kinds).tolist() if kind < CAPTION]
    by_type = {WIDE_TYPES[kind]: float(losses.detach()[kinds == kind].mean()) for kind in asked}
    return (losses * weight).sum() / weight.sum(), by_type


def answered(
    model: Any, bank: StreamBank, rows: Sequence[Row], policies: Sequence[Policy]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Read the streams of all rows, which are equally long, then ask their questions; see `StreamBatch.ask`."""
    batch = StreamBatch(model, bank.frame, policies)
    for number in range(len(rows[0].units)):
        batch.add([row.units[number] for row in rows])
    return batch.ask([row.segments for row in rows])


@torch.no_grad()
def stream_accuracies(
    model: Any,
    bank: StreamBank,
    writer: Writer,
    policy: Policy,
    *,
    budget: str = "25%",
    kind: str = "quiet",
    before: int = 0,
    after: int = 0,
    gap: int = 0,
    seed: int = 0,
) -> dict[str, float]:
    """Measure how often the most likely word is the right answer, on a stream about each event of the bank.

    Args:
        model: a thinker.
        bank: the clips.
        writer: makes token ids.
        policy: what is kept.
        budget: one of `omnisift.lab.training.stream_bank.BUDGETS`.
        kind: kind of the fillers.
        before, after: fillers before and after the events.
        gap: fillers between two parts of the events.
        seed: seed of questions and fillers.

    Returns:
        Question type -> accuracy in 0..1, and their mean as ``mean``.
    """
    training = model.training
    model.eval()
    right, total = np.zeros(len(WIDE_TYPES)), np.zeros(len(WIDE_TYPES))
    for parts in sorted({len(event.parts) for event in bank.events}):  # streams of equal length
        rows = []
        for number, event in enumerate([event for event in bank.events if len(event.parts) == parts]):
            rng = np.random.default_rng((seed, number))
            clips = before + parts + gap * (parts - 1) + after
            mixture = choose_fillers(bank, event, kind, rng) if clips > parts else None
            places = [before + i * (1 + gap) for i in range(parts)]
            units, scene = lay_out(bank, event, mixture, places, clips, budget, number)
            asked = stream_questions(scene, mixture, rng)
            rows.append(Row(units, [segment_of(question, writer, None) for question in asked]))
        states, tails = answered(model, bank, rows, [policy] * len(rows))
        due = (tails["labels"] != IGNORE_INDEX) & (tails["kind"] < CAPTION)
        hit = model.lm_head(states[due]).argmax(-1) == tails["labels"][due]
        kinds = tails["kind"][due].numpy()
        right += np.bincount(kinds, hit.numpy(), len(WIDE_TYPES))
        total += np.bincount(kinds, minlength=len(WIDE_TYPES))
    model.train(training)
    result = {name: float(r / t) for name, r, t in zip(WIDE_TYPES, right, total, strict=True) if t}
    return result | {"mean": float(np.mean(list(result.values())))}


def train_on_streams(
    model: Any,
    bank: StreamBank,
    writer: Writer,
    settings: LongSettings,
    types: Mapping[str, float],
    checks: Mapping[str, Any],
    folder: Path,
    log_every: int = 100,
) -> None:
    """Train the language model of ``model`` in place; resumes from a checkpoint in ``folder``.

    Args:
        model: a thinker.
        bank: the training clips.
        writer: makes token ids.
        settings: the numbers of the run.
        types: weights of the question types.
        checks: name -> a function without arguments that measures accuracies on other clips.
        folder: folder of the checkpoint.
        log_every: steps between two lines of the log; every fifth measures ``checks``.
    """
    model.requires_grad_(False).train()
    language = language_model_of(model).requires_grad_(True)
    language.embed_tokens.requires_grad_(False)
    trained = [parameter for parameter in language.parameters() if parameter.requires_grad]
    groups = [
        ParameterGroup([p for p in trained if p.ndim > 1], settings.learning_rate, settings.weight_decay),
        ParameterGroup([p for p in trained if p.ndim <= 1], settings.learning_rate, 0.0),
    ]
    seen: dict[str, list[float]] = {}

    def loss_of(step: int) -> Tensor:
        loss, parts = stream_loss(model, bank, writer, settings, types, step)
        for name, value in {**parts, "loss": float(loss.detach())}.items():
            seen.setdefault(name, []).append(value)
        return loss

    def log(step: int, _: float) -> None:
        if step % log_every == 0:
            logger.info("step %d %s", step, " ".join(f"{k}={sum(v) / len(v):.3f}" for k, v in sorted(seen.items())))
            seen.clear()
        if step % (5 * log_every) == 0 or step == settings.steps:
            for name, measure in checks.items():
                result = measure()
                logger.info("step %d %s: %s", step, name, " ".join(f"{k}={100 * v:.0f}" for k, v in result.items()))

    train_steps(
        loss_of,
        groups,
        settings.steps,
        linear_schedule(settings.steps, 40),
        clip=[trained],
        fused=True,
        after_step=log,
        checkpoint=Checkpoint(folder / "checkpoint.safetensors", language, every=100),
    )
