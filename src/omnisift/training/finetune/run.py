"""`fine_tune`: a recipe in, a trained model out; the same call goes on where an interrupted one stopped."""

from __future__ import annotations

import json
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

from omnisift.errors import CheckpointError
from omnisift.training.data import ClipCache, Collator, Reading, load_samples
from omnisift.training.finetune.building import build
from omnisift.training.finetune.checkpoints import load_weights, newest, save_model
from omnisift.training.finetune.compressed_model import CompressedModel
from omnisift.training.finetune.guards import SelectorGuard, asks, check_sharding, check_world
from omnisift.training.finetune.recipe import TrainRecipe, keep_recipe
from omnisift.training.finetune.trainer import CompressedTrainer, Journal, Terminate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainReport:
    """What a run did."""

    steps: int
    """Optimiser steps of the whole run, those before an interruption included."""
    finished: bool
    """False if SIGTERM ended it early; the same command goes on."""
    first_loss: float
    last_loss: float
    retained_ratio: float
    """Measured share of video and audio tokens that stayed, mean of the run."""
    seconds: float
    """Of this session."""
    samples: int
    skipped: dict[str, str]
    """Sample -> why it was left out, as seen by this process."""
    model: str
    """Folder of the result, or of the run if it is not finished."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def fine_tune(recipe: TrainRecipe, progress: bool = False) -> TrainReport:
    """Train as ``recipe`` says; ``progress`` shows a bar on stderr.

    Raises:
        UsageError: no data, or a run of another recipe in its folder.
        TrainingError: prompts were not compressed, the selector got no gradient, or processes are not connected.
    """
    samples = [sample for path in recipe.data for sample in load_samples(Path(path))]
    out, first = Path(recipe.out), not int(os.environ.get("RANK", "0"))
    if first:
        keep_recipe(recipe, out)
    host, sifted = build(recipe)
    cache = None if recipe.cache is None else ClipCache(Path(recipe.cache), int(recipe.cache_gigabytes * (1 << 30)))
    reading = Reading(recipe.fps, recipe.max_frames, recipe.max_pixels, recipe.max_seconds)
    collator = Collator(host.processor, reading, cache, recipe.system, recipe.max_tokens)
    checkpoint = newest(out)
    step = int(checkpoint.name.split("-")[1]) if checkpoint is not None else 0
    guard, terminate = SelectorGuard(sifted), Terminate()
    callbacks: list[TrainerCallback] = [terminate]
    if sifted.selector is not None and recipe.train_selector:
        callbacks.append(guard)
    if first:
        callbacks.append(Journal(out / "log.jsonl", step))
        callbacks.append(TensorBoardCallback(SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)))
    trainer = CompressedTrainer(
        recipe,
        sifted,
        guard,
        args=arguments(recipe),
        train_dataset=samples,
        data_collator=collator,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    if not progress:
        trainer.remove_callback(ProgressCallback)
    check_world(recipe.processes)
    check_sharding(trainer.is_deepspeed_enabled, trainer.is_fsdp_enabled)
    begin = time.monotonic()
    if checkpoint is not None and step >= planned_steps(recipe, len(samples)):
        load_weights(sifted, checkpoint)  # killed before the model was written; the host would take one step more
        finished = True
    else:
        with terminate:
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        step = trainer.state.global_step
        finished = step >= trainer.state.max_steps
    if finished and trainer.is_world_process_zero():
        whole = gathered(recipe) if trainer.is_fsdp_enabled else sifted
        save_model(whole, host.processor, out / "model", torch.bfloat16 if recipe.in_bfloat16 else torch.float32)
    return _report(recipe, step, trainer.skipped, len(samples), finished, time.monotonic() - begin)


def gathered(recipe: TrainRecipe) -> CompressedModel:
    """What a run under FSDP2 learned, in one piece on the CPU: read from the shards of its last checkpoint."""
    kind = "bfloat16" if recipe.in_bfloat16 else "float32"
    _, sifted = build(replace(recipe, device="cpu", dtype=kind))
    last = newest(Path(recipe.out))
    if last is None:
        raise CheckpointError(f"{recipe.out} holds no whole checkpoint to take the model from; run the command again")
    load_weights(sifted, last)
    return sifted


def planned_steps(recipe: TrainRecipe, samples: int) -> int:
    """Optimiser steps of the whole run, as the host counts them."""
    if recipe.steps is not None:
        return recipe.steps
    passes = math.ceil(samples / (recipe.batch_size * check_world()))
    return math.ceil((recipe.epochs or 1.0) * math.ceil(passes / recipe.accumulation))


def arguments(recipe: TrainRecipe) -> TrainingArguments:
    """The Trainer's settings."""
    on_cpu = recipe.device == "cpu"
    return TrainingArguments(
        output_dir=recipe.out,
        max_steps=recipe.steps or -1,
        num_train_epochs=recipe.epochs or 1.0,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.accumulation,
        learning_rate=recipe.rate,
        max_grad_norm=recipe.clip,
        seed=recipe.seed,
        save_steps=recipe.save_steps,
        save_total_limit=2,
        logging_steps=recipe.log_steps,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=False,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_num_workers=recipe.workers,
        dataloader_pin_memory=not on_cpu,
        ddp_find_unused_parameters=True,
        ddp_backend="gloo" if on_cpu and int(os.environ.get("WORLD_SIZE", "1")) > 1 else None,
        use_cpu=on_cpu and not asks("DEEPSPEED"),  # told that it is on a CPU, accelerate leaves DeepSpeed out
        bf16=recipe.in_bfloat16,
    )


def _report(
    recipe: TrainRecipe, step: int, skipped: dict[str, str], samples: int, finished: bool, seconds: float
) -> TrainReport:
    text = (Path(recipe.out) / "log.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    losses = [float(line["loss"]) for line in lines] or [float("nan")]
    kept = [float(line["retained_ratio"]) for line in lines if "retained_ratio" in line] or [float("nan")]
    return TrainReport(
        steps=step,
        finished=finished,
        first_loss=losses[0],
        last_loss=losses[-1],
        retained_ratio=sum(kept) / len(kept),
        seconds=round(seconds, 1),
        samples=samples,
        skipped=skipped,
        model=str(Path(recipe.out) / "model" if finished else Path(recipe.out)),
    )
