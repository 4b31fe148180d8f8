"""Stage 3: nano's language model learns to answer from the frozen encoders' outputs, on Hugging Face's Trainer.

Half of the steps see all tokens, the others a selection at 50 to 15 % (retention augmentation): without it ``place``
falls to chance under any compression, since the model infers a token's corner by counting its neighbours.
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

from omnisift.training.evaluate import accuracies, in_words
from omnisift.training.feature_cache import FeatureCache, class_means
from omnisift.training.forward import Kept, everything, run
from omnisift.training.host import core_of, language_model_of
from omnisift.training.losses import Hints, LossWeights, answer_losses, hint_losses
from omnisift.training.packed import TYPE_WEIGHTS, Layout, Writer, make_batch
from omnisift.training.schedule import Clock, rate_factor
from omnisift.training.selections import augmented
from omnisift.training.settings import NanoSettings
from omnisift.vgas import VGAS

logger = logging.getLogger(__name__)
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Course:
    """Clips of one setting of the world, and where their tokens lie in a prompt."""

    bank: FeatureCache
    layout: Layout
    types: Mapping[str, float]
    """How often each type of question is asked."""


@dataclass
class Lesson:
    """What a run of the language model needs to know."""

    bank: FeatureCache
    layout: Layout
    writer: Writer
    settings: NanoSettings
    steps: int
    rate: float
    full_share: float
    retains: tuple[float, ...]
    selector: VGAS | None = None
    """Where given, most selections are the selector's (fine-tuning under compression)."""
    warmup: int = 100
    minutes: float | None = None
    weights: LossWeights = field(default_factory=LossWeights)
    courses: tuple[Course, ...] = ()
    """Where given, each step takes its clips from one of these, drawn evenly, instead of from ``bank``."""
    hinted: bool = True
    """Whether the hints of `omnisift.training.losses` are part of the loss."""
    cut: Callable[[Batch, list[int], int], Batch] | None = None
    """(batch, clips, step) -> the batch with ``places``: a method that cuts every prompt, instead of `augmented`."""


class PackedClips(Dataset[Batch]):
    """Item ``i`` is the whole batch of step ``i``: the same on every run, so a resumed run sees what it would have."""

    def __init__(self, lesson: Lesson):
        self.lesson = lesson

    def __len__(self) -> int:
        return self.lesson.steps

    def __getitem__(self, step: int) -> Batch:
        lesson, settings = self.lesson, self.lesson.settings
        rng = np.random.default_rng((settings.seed, 3, step))
        number = int(rng.integers(len(lesson.courses))) if lesson.courses else 0
        course = lesson.courses[number] if lesson.courses else Course(lesson.bank, lesson.layout, TYPE_WEIGHTS)
        clips = [int(i) for i in rng.choice(len(course.bank), settings.clips_per_step, replace=False)]
        captions = 0.5 if course.bank.scenes[0].config.sound and course.bank.scenes[0].shapes else 0.0
        batch = make_batch(
            course.bank,
            clips,
            lesson.writer,
            settings.questions,
            rng,
            types=course.types,
            captions=captions,
            rough=True,
        )
        batch["course"] = torch.tensor(number)
        if lesson.cut is not None:
            return lesson.cut(batch, clips, step)
        if rng.random() >= lesson.full_share:
            kept = augmented(batch["video"], batch["audio"], lesson.retains, rng, lesson.selector)
            batch |= {"keep_video": kept.video, "keep_audio": kept.audio}
        return batch


class Student(nn.Module):
    """nano and its scaffolding, as one module for the Trainer."""

    _keys_to_ignore_on_save = ("nano.lm_head.weight",)
    """What `state_dict` leaves out, so that the Trainer does not report it missing."""

    def __init__(self, nano: Any, hints: Hints):
        super().__init__()
        self.nano, self.hints = nano, hints

    def tie_weights(self) -> None:
        """Called by the Trainer after loading what lacks the output layer."""
        self.nano.tie_weights()

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Without the output layer: it is the word embeddings, and safetensors refuses to write a tensor twice."""
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        state.pop("nano.lm_head.weight", None)
        return state


class PackedTrainer(Trainer):
    """A Trainer whose batches are packed clips and whose loss has six parts."""

    def __init__(self, lesson: Lesson, clock: Clock, **kwargs: Any):
        super().__init__(train_dataset=PackedClips(lesson), data_collator=lambda items: items[0], **kwargs)
        self.lesson, self.clock = lesson, clock
        self.parts: dict[str, float] = {}

    def compute_loss(  # type: ignore[override]
        self, model: Any, inputs: Batch, return_outputs: bool = False, **_: Any
    ) -> Any:
        """Weighted sum of answers, captions, ends of turns and hints."""
        student: Student = self.accelerator.unwrap_model(model)
        kept = Kept(inputs["keep_video"], inputs["keep_audio"]) if "keep_video" in inputs else None
        loss, self.parts = student_loss(student, self.lesson, inputs, kept)
        return (loss, None) if return_outputs else loss

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:  # noqa: ARG002 - the host's
        """The recipe's schedule, by steps or by minutes."""
        lesson, clock = self.lesson, self.clock
        self.lr_scheduler = LambdaLR(
            optimizer or self.optimizer,  # type: ignore[arg-type]
            lambda step: rate_factor(step, clock.progress(step), lesson.warmup),
        )
        return self.lr_scheduler

    def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]


def student_loss(student: Student, lesson: Lesson, batch: Batch, kept: Kept | None) -> tuple[Tensor, dict[str, float]]:
    """(loss, its parts before weighting)."""
    layout = lesson.courses[int(batch["course"])].layout if lesson.courses else lesson.layout
    out = run(student.nano, layout, batch, kept)
    parts = answer_losses(student.nano, out, batch)
    if lesson.hinted:
        parts |= hint_losses(student.nano, student.hints, out, batch, kept or everything(batch))
    total = sum((value * getattr(lesson.weights, name, 1.0) for name, value in parts.items()), torch.zeros(()))
    return total, {name: float(value.detach()) for name, value in parts.items()}


class Progress(TrainerCallback):
    """Logs accuracies on validation clips every ``every`` steps."""

    def __init__(self, nano: Any, lesson: Lesson, check: FeatureCache, clock: Clock, every: int = 200):
        self.nano, self.lesson, self.check, self.clock, self.every = nano, lesson, check, clock, every
        self.trainer: PackedTrainer | None = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002 - the host's
        """Measure and log."""
        if state.global_step % self.every:
            return
        result = accuracies(self.nano, self.lesson.layout, self.lesson.writer, self.check, clips=60)
        parts = " ".join(f"{k}={v:.2f}" for k, v in (self.trainer.parts if self.trainer else {}).items())
        logger.info("step %d %.1f min [%s] %s", state.global_step, self.clock.elapsed(), parts, in_words(result))


def start_embeddings(nano: Any, tokenizer: Any, bank: FeatureCache, std: float, seed: int) -> None:
    """Random words at ``std``; words that name things start at the class means of the encoders' outputs."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        weight = language_model_of(nano).embed_tokens.weight
        weight.copy_(torch.randn(weight.shape, generator=rng) * std)
        for word, mean in class_means(bank).items():
            weight[tokenizer.convert_tokens_to_ids(word)] = mean / mean.square().mean().sqrt() * std


def train_language_model(
    nano: Any, hints: Hints, lesson: Lesson, check: FeatureCache, folder: Path, log_every: int = 200
) -> float:
    """Train in place; both encoders stay frozen. Resumes if ``folder`` holds a checkpoint. Returns the minutes."""
    for parameter in nano.parameters():
        parameter.requires_grad_(True)
    core_of(nano).visual.requires_grad_(False)
    core_of(nano).audio_tower.requires_grad_(False)
    clock = Clock(lesson.steps, lesson.minutes)
    progress = Progress(nano, lesson, check, clock, log_every)
    trainer = PackedTrainer(
        lesson, clock, model=Student(nano, hints), args=arguments(lesson, folder), callbacks=[clock, progress]
    )
    trainer.remove_callback(PrinterCallback)  # the log says what a run does; nothing is printed
    progress.trainer = trainer
    trainer.train(resume_from_checkpoint=newest_checkpoint(folder))
    return clock.elapsed()


def newest_checkpoint(folder: Path) -> str | None:
    """The last complete checkpoint, or None. The Trainer writes ``trainer_state.json`` last: without it, a run was
    killed while saving."""
    saved = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return str(max(saved, key=lambda path: int(path.name.split("-")[1]))) if saved else None


def arguments(lesson: Lesson, folder: Path) -> TrainingArguments:
    """The Trainer's settings. One item of the dataset is one batch, so the Trainer's batch size is 1."""
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=lesson.steps,
        per_device_train_batch_size=1,
        learning_rate=lesson.rate,
        weight_decay=lesson.settings.weight_decay,
        adam_beta1=0.9,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        seed=lesson.settings.seed,
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
