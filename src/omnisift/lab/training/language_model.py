"""Stage 3 of nano: train the language model on the frozen encoders' outputs, on Hugging Face's Trainer.

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
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from omnisift.lab.training.evaluate import accuracies, format_accuracies
from omnisift.lab.training.feature_cache import FeatureCache, class_means
from omnisift.lab.training.forward import KeptTokens, forward_packed, keep_all
from omnisift.lab.training.losses import Hints, LossWeights, answer_losses, hint_losses
from omnisift.lab.training.nano_model import core_of, language_model_of
from omnisift.lab.training.packed import TYPE_WEIGHTS, PromptLayout, Writer, make_batch
from omnisift.lab.training.schedule import RunLimit, rate_factor
from omnisift.lab.training.selections import augmented
from omnisift.lab.training.settings import NanoSettings
from omnisift.vgas import VGAS

logger = logging.getLogger(__name__)
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class ClipSource:
    """Clips of one setting of the world, with their prompt layout."""

    features: FeatureCache
    layout: PromptLayout
    types: Mapping[str, float]
    """Question type -> how often it is drawn."""


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
    minutes: float | None = None
    """Time limit; None means steps alone."""
    weights: LossWeights = field(default_factory=LossWeights)
    """Weights of the parts of the loss."""
    sources: tuple[ClipSource, ...] = ()
    """Each step draws one of these for its clips, where given, instead of ``features``."""
    use_hints: bool = True
    """Whether the auxiliary losses of `omnisift.lab.training.losses` are added."""
    compress: Callable[[Batch, list[int], int], Batch] | None = None
    """(batch, clips, step) -> the batch with ``places``: a method that compresses every prompt, instead of
    `augmented`."""


class PackedClips(Dataset[Batch]):
    """Data set whose item ``i`` is the batch of step ``i``, drawn by the seed, so that a resumed run sees the same
    data."""

    def __init__(self, config: TrainConfig):
        self.config = config

    def __len__(self) -> int:
        return self.config.max_steps

    def __getitem__(self, step: int) -> Batch:
        config, settings = self.config, self.config.settings
        rng = np.random.default_rng((settings.seed, 3, step))
        number = int(rng.integers(len(config.sources))) if config.sources else 0
        source = config.sources[number] if config.sources else ClipSource(config.features, config.layout, TYPE_WEIGHTS)
        clips = [int(i) for i in rng.choice(len(source.features), settings.clips_per_step, replace=False)]
        captions = 0.5 if source.features.scenes[0].config.sound and source.features.scenes[0].shapes else 0.0
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
        if config.compress is not None:
            return config.compress(batch, clips, step)
        if rng.random() >= config.full_share:
            kept = augmented(batch["video"], batch["audio"], config.retains, rng, config.selector)
            batch |= {"keep_video": kept.video, "keep_audio": kept.audio}
        return batch


class TrainingNano(nn.Module):
    """nano and the modules of its auxiliary losses as one module for the Trainer."""

    _keys_to_ignore_on_save = ("nano.lm_head.weight",)
    """Names that `state_dict` leaves out, so that the Trainer does not report them as missing."""

    def __init__(self, nano: Any, hints: Hints):
        super().__init__()
        self.nano, self.hints = nano, hints

    def tie_weights(self) -> None:
        """Restore the output layer after loading; called by the Trainer."""
        self.nano.tie_weights()

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Without the output layer, which is the word embeddings: safetensors rejects shared tensors."""
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        state.pop("nano.lm_head.weight", None)
        return state


class PackedTrainer(Trainer):
    """Trainer whose batches are packed clips and whose loss has several parts."""

    def __init__(self, config: TrainConfig, limit: RunLimit, **kwargs: Any):
        super().__init__(train_dataset=PackedClips(config), data_collator=lambda items: items[0], **kwargs)
        self.config, self.limit = config, limit
        self.parts: dict[str, float] = {}

    def compute_loss(  # type: ignore[override]
        self, model: Any, inputs: Batch, return_outputs: bool = False, **_: Any
    ) -> Any:
        """Weighted sum of answers, captions, ends of turns and auxiliary losses."""
        module: TrainingNano = self.accelerator.unwrap_model(model)
        kept = KeptTokens(inputs["keep_video"], inputs["keep_audio"]) if "keep_video" in inputs else None
        loss, self.parts = training_loss(module, self.config, inputs, kept)
        return (loss, None) if return_outputs else loss

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:  # noqa: ARG002 - the host's
        """The recipe's schedule, by steps or by minutes."""
        config, limit = self.config, self.limit
        self.lr_scheduler = LambdaLR(
            optimizer or self.optimizer,  # type: ignore[arg-type]
            lambda step: rate_factor(step, limit.progress(step), config.warmup_steps),
        )
        return self.lr_scheduler

    def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]


def training_loss(
    module: TrainingNano, config: TrainConfig, batch: Batch, kept: KeptTokens | None
) -> tuple[Tensor, dict[str, float]]:
    """The loss of a batch.

    Args:
        module: what is trained.
        config: weights and layout.
        batch: see `make_batch`.
        kept: which clip tokens stay; None keeps all.

    Returns:
        (loss, name of each part -> its value before weighting).
    """
    layout = config.sources[int(batch["source"])].layout if config.sources else config.layout
    out = forward_packed(module.nano, layout, batch, kept)
    parts = answer_losses(module.nano, out, batch)
    if config.use_hints:
        parts |= hint_losses(module.nano, module.hints, out, batch, kept or keep_all(batch))
    total = sum((value * getattr(config.weights, name, 1.0) for name, value in parts.items()), torch.zeros(()))
    return total, {name: float(value.detach()) for name, value in parts.items()}


class ValidationLog(TrainerCallback):
    """Logs accuracies on validation clips every ``every`` steps."""

    def __init__(self, nano: Any, config: TrainConfig, check: FeatureCache, limit: RunLimit, every: int = 200):
        self.nano, self.config, self.check, self.limit, self.every = nano, config, check, limit, every
        self.trainer: PackedTrainer | None = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002 - the host's
        """Measure and log."""
        if state.global_step % self.every:
            return
        result = accuracies(self.nano, self.config.layout, self.config.writer, self.check, clips=60)
        parts = " ".join(f"{k}={v:.2f}" for k, v in (self.trainer.parts if self.trainer else {}).items())
        logger.info(
            "step %d %.1f min [%s] %s", state.global_step, self.limit.elapsed(), parts, format_accuracies(result)
        )


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
) -> float:
    """Train ``nano`` in place with frozen encoders; resumes from a checkpoint in ``folder``.

    Args:
        nano: a thinker.
        hints: modules of the auxiliary losses.
        config: the run.
        check: validation clips.
        folder: checkpoints.
        log_every: steps between validations.

    Returns:
        Minutes of training.
    """
    for parameter in nano.parameters():
        parameter.requires_grad_(True)
    core_of(nano).visual.requires_grad_(False)
    core_of(nano).audio_tower.requires_grad_(False)
    limit = RunLimit(config.max_steps, config.minutes)
    validation = ValidationLog(nano, config, check, limit, log_every)
    trainer = PackedTrainer(
        config,
        limit,
        model=TrainingNano(nano, hints),
        args=training_arguments(config, folder),
        callbacks=[limit, validation],
    )
    trainer.remove_callback(PrinterCallback)  # progress is logged, not printed
    validation.trainer = trainer
    trainer.train(resume_from_checkpoint=newest_checkpoint(folder))
    return limit.elapsed()


def newest_checkpoint(folder: Path) -> str | None:
    """The last complete checkpoint, or None.

    The Trainer writes ``trainer_state.json`` last, so a checkpoint without it is incomplete.
    """
    complete = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return str(max(complete, key=lambda path: int(path.name.split("-")[1]))) if complete else None


def training_arguments(config: TrainConfig, folder: Path) -> TrainingArguments:
    """The Trainer's settings; the batch size is 1 because one item of the data set is a batch."""
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=config.max_steps,
        per_device_train_batch_size=1,
        learning_rate=config.learning_rate,
        weight_decay=config.settings.weight_decay,
        adam_beta1=0.9,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        seed=config.settings.seed,
        save_steps=200,
        save_total_limit=1,
        logging_steps=10**9,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        use_cpu=True,
    )
