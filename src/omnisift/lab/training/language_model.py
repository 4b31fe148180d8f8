"""Stage 3 of nano: train the language model on the frozen encoders' outputs.

Half of the steps see all tokens, the others a selection at 50 to 15 % (retention augmentation). Without it accuracy on
``place`` falls to chance under compression, since the model infers a token's corner by counting its neighbours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from omnisift.lab.training.evaluate import accuracies, format_accuracies
from omnisift.lab.training.feature_cache import FeatureCache, class_means
from omnisift.lab.training.forward import KeptTokens, forward_packed, keep_all
from omnisift.lab.training.losses import Hints, LossWeights, answer_losses, hint_losses
from omnisift.lab.training.nano_model import core_of, language_model_of
from omnisift.lab.training.packed import TYPE_WEIGHTS, PromptLayout, Writer, make_batch
from omnisift.lab.training.selections import augmented
from omnisift.lab.training.self_distillation import distillation_losses, own_answers
from omnisift.lab.training.settings import NanoSettings
from omnisift.training.loop import Checkpoint, ParameterGroup, Schedule, train_steps
from omnisift.vgas import VGAS
from omnisift.world import QUESTION_TYPES

logger = logging.getLogger(__name__)
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class ClipSource:
    """Clips of one setting of the world, with their prompt layout."""

    features: FeatureCache
    layout: PromptLayout
    types: Mapping[str, float]
    """Question type -> how often it is drawn."""
    clips_per_step: int | None = None
    """Clips of a step from this source; None has as many as the settings say."""


@dataclass
class TrainConfig:
    """Settings of one training run of the language model."""

    features: FeatureCache
    """The training clips."""
    layout: PromptLayout
    """Their prompt layout."""
    writer: Writer
    """Makes token ids of questions."""
    settings: NanoSettings
    """Settings shared by all stages."""
    max_steps: int
    """Optimizer steps."""
    learning_rate: float
    """Peak learning rate (AdamW)."""
    full_share: float
    """Share of the steps that see all tokens."""
    retains: tuple[float, ...]
    """Fractions of tokens kept in the other steps."""
    selector: VGAS | None = None
    """Makes most of the selections, where given (fine-tuning under compression)."""
    warmup_steps: int = 100
    """Steps in which the learning rate rises."""
    weights: LossWeights = field(default_factory=LossWeights)
    """Weights of the parts of the loss."""
    sources: tuple[ClipSource, ...] = ()
    """Each step draws one of these for its clips, where given, instead of ``features``."""
    use_hints: bool = True
    """Whether the auxiliary losses of `omnisift.lab.training.losses` are added."""
    compress: Callable[[Batch, list[int], int], Batch] | None = None
    """(batch, clips, step) -> the batch with ``places``: a method that compresses every prompt, instead of
    `augmented`."""
    teacher: Any = None
    """A frozen model, where given: with all tokens it gives the answers, whose distribution is learned instead of those
    of the world."""


def make_step(config: TrainConfig, step: int) -> Batch:
    """Return the batch of a step, drawn by the seed and the number of the step."""
    settings = config.settings
    rng = np.random.default_rng((settings.seed, 3, step))
    number = int(rng.integers(len(config.sources))) if config.sources else 0
    source = config.sources[number] if config.sources else ClipSource(config.features, config.layout, TYPE_WEIGHTS)
    count = source.clips_per_step or settings.clips_per_step
    clips = [int(i) for i in rng.choice(len(source.features), count, replace=False)]
    scene = source.features.scenes[0]
    captions = 0.5 if scene.config.sound and scene.shapes and scene.config.wide is None else 0.0
    batch = make_batch(
        source.features,
        clips,
        config.writer,
        settings.questions,
        rng,
        types=source.types,
        captions=captions,
        perturb=True,
    )
    batch["source"] = torch.tensor(number)
    if config.teacher is not None:
        batch |= own_answers(config.teacher, source.layout, batch, config.writer.end)
    if config.compress is not None:
        return config.compress(batch, clips, step)
    if rng.random() >= config.full_share:
        kept = augmented(batch["video"], batch["audio"], config.retains, rng, config.selector)
        batch |= {"keep_video": kept.video, "keep_audio": kept.audio}
    return batch


def training_loss(nano: Any, hints: Hints, config: TrainConfig, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """The loss of a batch.

    Args:
        nano: the model.
        hints: modules of the auxiliary losses.
        config: weights and layout.
        batch: see `make_step`.

    Returns:
        (loss, name of each part -> its value before weighting).
    """
    layout = config.sources[int(batch["source"])].layout if config.sources else config.layout
    kept = KeptTokens(batch["keep_video"], batch["keep_audio"]) if "keep_video" in batch else None
    out = forward_packed(nano, layout, batch, kept)
    parts = answer_losses(nano, out, batch) if config.teacher is None else distillation_losses(nano, out, batch)
    if config.use_hints:
        parts |= hint_losses(nano, hints, out, batch, kept or keep_all(batch))
    total = sum((value * getattr(config.weights, name, 1.0) for name, value in parts.items()), torch.zeros(()))
    return total, {name: float(value.detach()) for name, value in parts.items()}


def init_embeddings(nano: Any, tokenizer: Any, features: FeatureCache, std: float, seed: int) -> None:
    """Initialise word embeddings with noise, and words that name things with the encoders' class means.

    Args:
        nano: a thinker.
        tokenizer: its tokenizer.
        features: clips for the class means.
        std: standard deviation of all embeddings.
        seed: seed of the noise.
    """
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        weight = language_model_of(nano).embed_tokens.weight
        weight.copy_(torch.randn(weight.shape, generator=rng) * std)
        for word, mean in class_means(features).items():
            weight[tokenizer.convert_tokens_to_ids(word)] = mean / mean.square().mean().sqrt() * std


def train_language_model(
    nano: Any, hints: Hints, config: TrainConfig, check: FeatureCache, folder: Path, log_every: int = 200
) -> None:
    """Train ``nano`` in place with frozen encoders; resumes from a checkpoint in ``folder``.

    Args:
        nano: a thinker.
        hints: modules of the auxiliary losses.
        config: the run.
        check: validation clips.
        folder: folder of the checkpoint.
        log_every: steps between validations.
    """
    nano.requires_grad_(True).train()
    core_of(nano).visual.requires_grad_(False)
    core_of(nano).audio_tower.requires_grad_(False)
    module = nn.ModuleList([nano, hints])
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    # Biases and norms do not decay.
    groups = [
        ParameterGroup([p for p in trained if p.ndim > 1], config.learning_rate, config.settings.weight_decay),
        ParameterGroup([p for p in trained if p.ndim <= 1], config.learning_rate, 0.0),
    ]
    latest: dict[str, float] = {}
    types = tuple(config.sources[0].types) if config.sources else QUESTION_TYPES

    def loss_of(step: int) -> Tensor:
        loss, parts = training_loss(nano, hints, config, make_step(config, step))
        latest.update(parts)
        return loss

    def log(step: int, _: float) -> None:
        if step % log_every == 0:
            result = accuracies(nano, config.layout, config.writer, check, clips=60, types=types)
            parts = " ".join(f"{name}={value:.2f}" for name, value in latest.items())
            logger.info("step %d [%s] %s", step, parts, format_accuracies(result))

    train_steps(
        loss_of,
        groups,
        config.max_steps,
        rate_schedule(config.max_steps, config.warmup_steps),
        clip=[trained],
        fused=True,
        after_step=log,
        checkpoint=Checkpoint(folder / "checkpoint.safetensors", module),
    )


def rate_schedule(steps: int, warmup_steps: int) -> Schedule:
    """Return the schedule of the language model: linear warm-up, constant, linear decay over the last 40 %."""

    def rate(peak: float, step: int) -> float:
        decay = max(0.02, min(1.0, (1.0 - step / steps) / 0.4))
        return peak * (min(1.0, (step + 1) / max(1, warmup_steps)) * decay)

    return rate
