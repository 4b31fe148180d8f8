"""`fine_tune`: train the model of a recipe; the same call resumes an interrupted run."""

from __future__ import annotations

import logging
import math
import os
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback

from omnisift.errors import CheckpointError
from omnisift.pipeline.clip_format import hears
from omnisift.pipeline.loading import Host, special_tokens
from omnisift.training.data import ClipCache, Collator, DataRows, Reading, Sample, read_rows
from omnisift.training.finetune.building import OnProgress, build
from omnisift.training.finetune.checkpoints import (
    best_checkpoint,
    check_seals,
    load_weights,
    newest_checkpoint,
    save_model,
)
from omnisift.training.finetune.checks import check_run
from omnisift.training.finetune.compressed_model import CompressedModel
from omnisift.training.finetune.guards import SelectorGuard, check_sharding, check_world, launcher_requests
from omnisift.training.finetune.own_answers import with_own_answers
from omnisift.training.finetune.recipe import TrainRecipe
from omnisift.training.finetune.run_folder import check_folder, run_lock, save_recipe
from omnisift.training.finetune.trainer import CompressedTrainer, LogFile, StepProgress, StopOnSigterm, log_lines
from omnisift.training.finetune.validation import Validation
from omnisift.training.hub import push_selector
from omnisift.training.losses import DATA
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
    eval_loss: float | None = None
    """Loss on the validation data in the latest evaluation; with ``load_best_model_at_end`` in the best one."""
    eval_accuracy: float | None = None
    """Share of its short answers that the model then generated."""
    hub_url: str | None = None
    """Address of the repository that the selector was uploaded to."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        return asdict(self)


def fine_tune(recipe: TrainRecipe, progress: bool = False, on_progress: OnProgress | None = None) -> TrainReport:
    """Train a model under compression, or resume the run in the recipe's ``output_dir``.

    Args:
        recipe: the run's settings.
        progress: show a bar over the steps on stderr.
        on_progress: called as ``on_progress(stage, done, total)`` in the first process; the stages are ``"recording
            attention"`` and ``"training the selector"``, where a selector is distilled, ``"answering"``, where the
            model's own answers are learned, and ``"training"``.

    Returns:
        A summary; the trained model is in ``output_dir/model``.

    Raises:
        UsageError: there is no data, two values of the recipe contradict each other, or ``output_dir`` holds a run of
            another recipe, a run in progress, or files that are of no run.
        TrainingError: prompts were not compressed, the selector got no gradient, or processes are not connected.
        OmniSiftError: the model or its selector can't be loaded.
    """
    begin = time.monotonic()
    rows, evaluated = read_data(recipe)
    samples = rows.samples
    folder, is_first_process = Path(recipe.output_dir), not int(os.environ.get("RANK", "0"))
    with ExitStack() as stack:
        if is_first_process:
            for note in rows.notes() + [f"eval_data: {note}" for note in evaluated.notes()]:
                logger.warning("%s", note)
            check_folder(folder)
            check_run(recipe, samples, evaluated.samples)
            stack.enter_context(run_lock(folder))
            save_recipe(recipe, folder)
        checkpoint = newest_checkpoint(folder)
        if is_first_process:
            log_lines(folder / "log.jsonl")  # raises for a line that it could not resume from
            if checkpoint is not None:
                check_seals(checkpoint)
        host, model = build(recipe, on_progress if is_first_process else None)
        if is_first_process and not hears(host.processor) and any(sample.media is not None for sample in samples):
            logger.warning("the audio of the clips is left out: this model takes none")
        unanswered: dict[str, str] = {}
        if recipe.answers_from != DATA:
            samples, unanswered = with_own_answers(
                recipe, host, model, samples, make_collator(recipe, host.processor), on_progress
            )
        trainer = _trainer(recipe, host, model, samples, evaluated.samples, checkpoint, on_progress)
        if not progress:
            trainer.remove_callback(ProgressCallback)
        world = check_world(recipe.processes)
        check_sharding(trainer.is_deepspeed_enabled, trainer.is_fsdp_enabled)
        step, finished = _train(trainer, checkpoint, planned_steps(recipe, len(samples), world))
        address = None
        if finished and trainer.is_world_process_zero():
            trained = _save_trained(recipe, trainer, host)
            if recipe.hub_model_id is not None:
                address = push_selector(
                    trained.selector, recipe.hub_model_id, recipe.hub_private_repo, host.thinker.config.model_type
                )
        skipped, count = rows.refused | unanswered | trainer.skipped, len(rows.samples) + len(rows.refused)
        report = _report(recipe, step, skipped, count, finished, time.monotonic() - begin)
        return replace(report, hub_url=address)


def read_data(recipe: TrainRecipe) -> tuple[DataRows, DataRows]:
    """(training rows, validation rows) of a recipe, checked against the special tokens of its model.

    Raises:
        OmniSiftError: data or model are not found, no row can be used, or ``system`` contains a special token.
    """
    special = special_tokens(recipe.model)
    if recipe.system is not None:
        check_text(recipe.system, "the recipe's system", special)
    rows = read_rows([Path(path) for path in recipe.data], special, answered=recipe.answers_from == DATA)
    return rows, read_rows([Path(path) for path in recipe.eval_data], special) if recipe.eval_data else DataRows()


def _trainer(
    recipe: TrainRecipe, host: Host, model: CompressedModel, samples: list[Sample], evaluated: list[Sample],
    checkpoint: Path | None, on_progress: OnProgress | None,
) -> CompressedTrainer:  # fmt: skip
    """The Trainer of a run that resumes after ``checkpoint``."""
    guard = SelectorGuard(model)
    callbacks: list[TrainerCallback] = [StopOnSigterm()]
    if model.selector is not None and recipe.train_selector:
        callbacks.append(guard)
    if not int(os.environ.get("RANK", "0")):
        callbacks += _reporters(Path(recipe.output_dir), _step_of(checkpoint), on_progress)
    validation = None
    if recipe.evaluates != "no":
        size = recipe.per_device_eval_batch_size or recipe.per_device_train_batch_size
        # A collator of its own, whose rows may have the ids of training rows.
        validation = Validation(
            host, evaluated, make_collator(recipe, host.processor), size, recipe.dataloader_num_workers
        )
    datasets: dict[str, Any] = {"train_dataset": samples, "eval_dataset": evaluated if validation else None}
    trainer = CompressedTrainer(
        recipe,
        model,
        guard,
        validation,
        args=training_arguments(recipe),
        data_collator=make_collator(recipe, host.processor),
        callbacks=callbacks,
        **datasets,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _train(trainer: CompressedTrainer, checkpoint: Path | None, planned: int) -> tuple[int, bool]:
    """(steps of the run, whether it is finished)."""
    step = _step_of(checkpoint)
    if checkpoint is not None and step >= planned:
        # Killed after the last step and before the model was written: the Trainer would take one step more.
        load_weights(trainer.compressed, checkpoint)
        return step, True
    with next(callback for callback in trainer.callback_handler.callbacks if isinstance(callback, StopOnSigterm)):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return trainer.state.global_step, trainer.state.global_step >= trainer.state.max_steps


def _save_trained(recipe: TrainRecipe, trainer: CompressedTrainer, host: Host) -> CompressedModel:
    """Write the last or the best weights to the folder ``model``; returns the module that has them."""
    folder, model = Path(recipe.output_dir), trainer.compressed
    last = newest_checkpoint(folder)
    if trainer.is_fsdp_enabled or recipe.load_best_model_at_end:
        if last is None:
            raise CheckpointError(f"{folder} has no complete checkpoint to save the model from; run it again")
        chosen = best_checkpoint(last) if recipe.load_best_model_at_end else last
        if trainer.is_fsdp_enabled:
            model = unsharded_model(recipe)
        load_weights(model, chosen)
    save_model(model, host.processor, folder / "model", torch.bfloat16 if recipe.in_bfloat16 else torch.float32)
    return model


def _step_of(checkpoint: Path | None) -> int:
    return 0 if checkpoint is None else int(checkpoint.name.split("-")[1])


def _reporters(folder: Path, step: int, on_progress: OnProgress | None) -> list[TrainerCallback]:
    """Log file, TensorBoard and progress of a run that starts after ``step``."""
    tensorboard = TensorBoardCallback(SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1))
    reporters: list[TrainerCallback] = [LogFile(folder / "log.jsonl", step), tensorboard]
    return reporters if on_progress is None else [*reporters, StepProgress(on_progress)]


def make_collator(recipe: TrainRecipe, processor: Any) -> Collator:
    """The collator of a recipe."""
    cache = None if recipe.cache is None else ClipCache(Path(recipe.cache), int(recipe.cache_gigabytes * (1 << 30)))
    reading = Reading(max_seconds=recipe.max_seconds, **recipe.reading)
    return Collator(processor, reading, cache, recipe.system, recipe.max_tokens)


def unsharded_model(recipe: TrainRecipe) -> CompressedModel:
    """A new model of an FSDP2 run in one piece on the CPU, into which the shards of a checkpoint can be loaded."""
    _, model = build(replace(recipe, device="cpu", dtype="bfloat16" if recipe.in_bfloat16 else "float32"))
    return model


def planned_steps(recipe: TrainRecipe, samples: int, processes: int) -> int:
    """Optimizer steps of the run, counted as the Trainer counts them."""
    if recipe.max_steps is not None:
        return recipe.max_steps
    batches = math.ceil(samples / (recipe.per_device_train_batch_size * processes))
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
        eval_strategy=recipe.evaluates,
        eval_steps=(recipe.eval_steps or recipe.save_steps) if recipe.evaluates == "steps" else None,
        metric_for_best_model=recipe.metric if recipe.load_best_model_at_end else None,
        greater_is_better=recipe.metric == "accuracy",
        run_name=recipe.run_name,
        report_to=[name for name in recipe.report_to or () if name != "tensorboard"],  # which `_reporters` adds
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
    losses = [float(line["loss"]) for line in lines if "loss" in line] or [float("nan")]
    ratios = [float(line["retained_ratio"]) for line in lines if "retained_ratio" in line] or [float("nan")]
    measured = _evaluation(recipe, lines)
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
        eval_loss=measured.get("eval_loss"),
        eval_accuracy=measured.get("eval_accuracy"),
    )


def _evaluation(recipe: TrainRecipe, lines: list[dict[str, Any]]) -> dict[str, float]:
    """Loss and accuracy of the latest evaluation; or of the best one, where that one is kept."""
    measured = [line for line in lines if f"eval_{recipe.metric}" in line]
    if not measured:
        return {}
    if not recipe.load_best_model_at_end:
        chosen = measured[-1]
    elif recipe.metric == "accuracy":
        chosen = max(measured, key=lambda line: float(line["eval_accuracy"]))
    else:
        chosen = min(measured, key=lambda line: float(line["eval_loss"]))
    return chosen
