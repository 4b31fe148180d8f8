"""`fine_tune`: train the model of a recipe; the same call resumes an interrupted run."""

from __future__ import annotations

import logging
import math
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback

from omnisift.errors import CheckpointError, UsageError
from omnisift.pipeline.loading import special_tokens
from omnisift.training.data import ClipCache, Collator, Reading, read_rows
from omnisift.training.finetune.building import OnProgress, build
from omnisift.training.finetune.checkpoints import (
    check_seals,
    checkpoints,
    load_weights,
    newest_checkpoint,
    save_model,
)
from omnisift.training.finetune.compressed_model import CompressedModel
from omnisift.training.finetune.guards import SelectorGuard, check_sharding, check_world, launcher_requests
from omnisift.training.finetune.recipe import TrainRecipe, save_recipe
from omnisift.training.finetune.trainer import CompressedTrainer, LogFile, StepProgress, StopOnSigterm, log_lines
from omnisift.utils.questions import check_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainReport:
    """Summary of a run."""

    steps: int
    """Optimizer steps of the run, including those before an interruption."""
    finished: bool
    """False if SIGTERM stopped the run early; the same call resumes it."""
    first_loss: float
    last_loss: float
    retained_ratio: float
    """Measured share of video and audio tokens that were kept, mean over the run."""
    seconds: float
    """Wall time of this call: loading, distilling a selector, training and saving."""
    samples: int
    """Samples in the training data."""
    skipped: dict[str, str]
    """Sample id, or file and line of a row -> why this process left it out."""
    model: str
    """Folder of the trained model; of the run if it is not finished."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        return asdict(self)


def fine_tune(recipe: TrainRecipe, progress: bool = False, on_progress: OnProgress | None = None) -> TrainReport:
    """Train a model under compression, or resume the run in the recipe's ``output_dir``.

    Args:
        recipe: the run's settings.
        progress: show a bar over the steps on stderr.
        on_progress: called as ``on_progress(stage, done, total)`` in the first process; the stages are ``"recording
            attention"`` and ``"training the selector"``, where a selector is distilled, and ``"training"``.

    Returns:
        A summary; the trained model is in ``output_dir/model``.

    Raises:
        UsageError: there is no data, or ``output_dir`` holds a run of another recipe or files that are of no run.
        TrainingError: prompts were not compressed, the selector got no gradient, or processes are not connected.
        OmniSiftError: the model or its selector can't be loaded.
    """
    begin = time.monotonic()
    special = special_tokens(recipe.model)
    if recipe.system is not None:
        check_text(recipe.system, "the recipe's system", special)
    rows = read_rows([Path(path) for path in recipe.data], special)
    samples = rows.samples
    folder, is_first_process = Path(recipe.output_dir), not int(os.environ.get("RANK", "0"))
    if is_first_process:
        for note in rows.notes():
            logger.warning("%s", note)
        _check_folder(folder)
        save_recipe(recipe, folder)
    checkpoint = newest_checkpoint(folder)
    if is_first_process:
        log_lines(folder / "log.jsonl")  # raises for a line that it could not resume from
        if checkpoint is not None:
            check_seals(checkpoint)
    host, model = build(recipe, on_progress if is_first_process else None)
    step = int(checkpoint.name.split("-")[1]) if checkpoint is not None else 0
    guard, stop = SelectorGuard(model), StopOnSigterm()
    callbacks: list[TrainerCallback] = [stop]
    if model.selector is not None and recipe.train_selector:
        callbacks.append(guard)
    if is_first_process:
        callbacks += _reporters(folder, step, on_progress)
    trainer = CompressedTrainer(
        recipe,
        model,
        guard,
        args=training_arguments(recipe),
        train_dataset=samples,
        data_collator=_collator(recipe, host.processor),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    if not progress:
        trainer.remove_callback(ProgressCallback)
    check_world(recipe.processes)
    check_sharding(trainer.is_deepspeed_enabled, trainer.is_fsdp_enabled)
    if checkpoint is not None and step >= planned_steps(recipe, len(samples)):
        # Killed after the last step and before the model was written: the Trainer would take one step more.
        load_weights(model, checkpoint)
        finished = True
    else:
        with stop:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        step = trainer.state.global_step
        finished = step >= trainer.state.max_steps
    if finished and trainer.is_world_process_zero():
        full = unsharded_model(recipe) if trainer.is_fsdp_enabled else model
        dtype = torch.bfloat16 if recipe.in_bfloat16 else torch.float32
        save_model(full, host.processor, folder / "model", dtype)
    skipped, count = rows.refused | trainer.skipped, len(samples) + len(rows.refused)
    return _report(recipe, step, skipped, count, finished, time.monotonic() - begin)


def _check_folder(folder: Path) -> None:
    """Raise `UsageError` if a new run would replace files that are not its own."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder for the run")
    if (folder / "recipe.json").exists():
        return
    foreign = [folder / name for name in ("model", "selector", "log.jsonl") if (folder / name).exists()]
    foreign += checkpoints(folder)
    if foreign:
        raise UsageError(f"{foreign[0]} exists and is not from a run in this folder; move it, or name another --out")


def _reporters(folder: Path, step: int, on_progress: OnProgress | None) -> list[TrainerCallback]:
    """Log file, TensorBoard and progress of a run that starts after ``step``."""
    tensorboard = TensorBoardCallback(SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1))
    reporters: list[TrainerCallback] = [LogFile(folder / "log.jsonl", step), tensorboard]
    return reporters if on_progress is None else [*reporters, StepProgress(on_progress)]


def _collator(recipe: TrainRecipe, processor: Any) -> Collator:
    cache = None if recipe.cache is None else ClipCache(Path(recipe.cache), int(recipe.cache_gigabytes * (1 << 30)))
    reading = Reading(max_seconds=recipe.max_seconds, **recipe.reading)
    return Collator(processor, reading, cache, recipe.system, recipe.max_tokens)


def unsharded_model(recipe: TrainRecipe) -> CompressedModel:
    """The trained model of an FSDP2 run in one piece on the CPU, read from the shards of its last checkpoint.

    Raises:
        CheckpointError: the run has no complete checkpoint.
    """
    dtype = "bfloat16" if recipe.in_bfloat16 else "float32"
    _, model = build(replace(recipe, device="cpu", dtype=dtype))
    last = newest_checkpoint(Path(recipe.output_dir))
    if last is None:
        raise CheckpointError(f"{recipe.output_dir} has no complete checkpoint to save the model from; run it again")
    load_weights(model, last)
    return model


def planned_steps(recipe: TrainRecipe, samples: int) -> int:
    """Optimizer steps of the run, counted as the Trainer counts them."""
    if recipe.max_steps is not None:
        return recipe.max_steps
    batches = math.ceil(samples / (recipe.per_device_train_batch_size * check_world()))
    return math.ceil((recipe.num_train_epochs or 1.0) * math.ceil(batches / recipe.gradient_accumulation_steps))


def training_arguments(recipe: TrainRecipe) -> TrainingArguments:
    """The recipe as the Trainer's settings."""
    on_cpu = recipe.device == "cpu"
    return TrainingArguments(
        output_dir=recipe.output_dir,
        max_steps=recipe.max_steps or -1,
        num_train_epochs=recipe.num_train_epochs or 1.0,
        per_device_train_batch_size=recipe.per_device_train_batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        learning_rate=recipe.learning_rate,
        max_grad_norm=recipe.max_grad_norm,
        seed=recipe.seed,
        save_steps=recipe.save_steps,
        save_total_limit=None,  # the Trainer would delete every folder whose name begins like that of a checkpoint
        logging_steps=recipe.logging_steps,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=False,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_num_workers=recipe.dataloader_num_workers,
        dataloader_pin_memory=not on_cpu,
        ddp_find_unused_parameters=True,
        ddp_backend="gloo" if on_cpu and int(os.environ.get("WORLD_SIZE", "1")) > 1 else None,
        use_cpu=on_cpu and not launcher_requests("DEEPSPEED"),  # with use_cpu accelerate leaves DeepSpeed out
        bf16=recipe.in_bfloat16,
    )


def _report(
    recipe: TrainRecipe, step: int, skipped: dict[str, str], samples: int, finished: bool, seconds: float
) -> TrainReport:
    folder = Path(recipe.output_dir)
    lines = log_lines(folder / "log.jsonl")
    losses = [float(line["loss"]) for line in lines] or [float("nan")]
    ratios = [float(line["retained_ratio"]) for line in lines if "retained_ratio" in line] or [float("nan")]
    return TrainReport(
        steps=step,
        finished=finished,
        first_loss=losses[0],
        last_loss=losses[-1],
        retained_ratio=sum(ratios) / len(ratios),
        seconds=round(seconds, 1),
        samples=samples,
        skipped=skipped,
        model=str(folder / "model" if finished else folder),
    )
