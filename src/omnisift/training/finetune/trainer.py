# ruff: noqa: ARG002 - the host fixes the arguments of a callback
"""Hugging Face Trainer for `CompressedModel`: two learning rates, retained ratio in the log, atomic checkpoints."""

from __future__ import annotations

import signal
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    get_cosine_schedule_with_warmup,
)

from omnisift.errors import UsageError
from omnisift.models.training_checks import assert_compressed
from omnisift.tokens import Modality
from omnisift.training.curriculum import set_budget
from omnisift.training.finetune.checkpoints import delete_old_checkpoints, load_weights, mark_complete, save_weights
from omnisift.training.finetune.compressed_model import CompressedModel, LossOutput
from omnisift.training.finetune.guards import SelectorGuard
from omnisift.training.finetune.recipe import TrainRecipe
from omnisift.training.finetune.validation import Validation
from omnisift.utils.jsonl import JsonLines, write_jsonl


class CompressedTrainer(Trainer):
    """Trains a `CompressedModel` with the optimizer and schedule of a recipe; see `fine_tune`.

    Args:
        recipe: the run's settings.
        compressed: what is trained.
        guard: measures the selector's gradient.
        validation: the validation set; None if the recipe evaluates nothing.
        kwargs: arguments of `transformers.Trainer`.
    """

    def __init__(
        self,
        recipe: TrainRecipe,
        compressed: CompressedModel,
        guard: SelectorGuard,
        validation: Validation | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model=compressed, **kwargs)
        self.recipe, self.compressed, self.guard, self.validation = recipe, compressed, guard, validation
        self.model_accepts_loss_kwargs = True
        self.skipped: dict[str, str] = {}
        """Sample id -> why the collator skipped it, in whichever process it ran."""
        self._measured: dict[str, list[float]] = defaultdict(list)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The Trainer's step; also measures the selector's gradient before it is clipped."""
        loss: Tensor = super().training_step(*args, **kwargs)
        self.guard.record_norm()
        return loss

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The batch's loss; raises `TrainingError` if its prompts were not compressed."""
        self.skipped |= inputs.pop("skipped", {})
        progress = self.state.global_step / max(1, self.state.max_steps)
        if self.compressed.estimator is not None:
            self.compressed.estimator.progress = progress
        if self.recipe.retain_start is not None:
            set_budget(self.compressed.compressor, self.recipe.budget_at(progress))
        if num_items_in_batch is not None and int(num_items_in_batch) == 0:
            num_items_in_batch = torch.ones_like(torch.as_tensor(num_items_in_batch))
        output: LossOutput = model(**inputs, num_items_in_batch=num_items_in_batch)
        assert_compressed(self.compressed.attachment, inputs["input_ids"])
        self._record_selection()
        loss = output.loss
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            # The number counts the labels of all processes, and their gradients are averaged.
            loss = loss * self.accelerator.num_processes
        return (loss, None) if return_outputs else loss

    def _record_selection(self) -> None:
        last, selection = self.compressed.attachment.last, self.compressed.attachment.selection
        if last is None:
            return
        self._measured["retained_ratio"].append(last.retained_ratio)
        self._measured["retained_video"].append(last.kept_video / max(1, last.n_video))
        if not last.n_audio:
            return
        self.guard.has_audio = True
        self._measured["retained_audio"].append(last.kept_audio / last.n_audio)
        if selection is not None and selection.scores is not None and self.compressed.selector is not None:
            self._measured["selector_entropy"].append(entropy(last.scores, last.modality))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The Trainer's values, with the means of ours since the last line."""
        if "loss" in logs:
            logs = logs | {name: sum(values) / len(values) for name, values in self._measured.items()}
            if self.compressed.selector is not None:
                logs["selector_grad_norm"] = self.guard.norm
            self._measured.clear()
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure the validation set and log ``eval_loss`` and ``eval_accuracy``."""
        if self.validation is None:
            return {}
        set_budget(self.compressed.compressor, self.recipe.budget)
        metrics = self.validation.measure(
            self.compressed, self._prepare_inputs, self.accelerator.autocast, generates=not self.is_fsdp_enabled
        )
        # Without a backward pass the outermost part stays gathered, as plain tensors that a checkpoint must not hold.
        for module in self.compressed.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def create_optimizer(self, model: Any = None) -> Any:
        """AdamW with a learning rate of its own for the selector."""
        if self.optimizer is None:
            recipe, selector = self.recipe, self.compressed.selector
            in_selector = {id(p) for p in selector.parameters()} if selector is not None else set()
            trained = [p for p in self.compressed.parameters() if p.requires_grad]
            selector_rate = recipe.selector_learning_rate or recipe.learning_rate
            groups = [
                {"params": [p for p in trained if id(p) not in in_selector], "lr": recipe.learning_rate},
                {"params": [p for p in trained if id(p) in in_selector], "lr": selector_rate},
            ]
            filled = [group for group in groups if group["params"]]
            self.optimizer = torch.optim.AdamW(filled, betas=(0.9, 0.98), weight_decay=recipe.weight_decay)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Linear warm-up, then a cosine."""
        recipe, target = self.recipe, optimizer or self.create_optimizer()
        warmup_steps = int(recipe.warmup_ratio * num_training_steps)
        self.lr_scheduler = get_cosine_schedule_with_warmup(target, warmup_steps, num_training_steps, recipe.num_cycles)
        return self.lr_scheduler

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        save_weights(self.compressed, Path(output_dir or str(self.args.output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # each process loads its shards
        else:
            load_weights(self.compressed, Path(resume_from_checkpoint))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # each process writes files
        if self.args.should_save:
            run = Path(str(self.args.output_dir))
            mark_complete(run / f"checkpoint-{self.state.global_step}")
            delete_old_checkpoints(run, best=self.state.best_global_step)


def entropy(scores: Tensor | None, modality: Tensor) -> float:
    """Mean entropy in bits of the audio tokens' scores, each read as a probability; 0 where none was scored.

    Args:
        scores: [B, S] float in 0..1, NaN where not scored; or None.
        modality: [B, S] int8.
    """
    if scores is None:
        return 0.0
    p = scores[(modality == int(Modality.AUDIO)) & ~scores.isnan()].double().clamp(1e-9, 1 - 1e-9)
    return float(-(p * p.log2() + (1 - p) * (1 - p).log2()).mean()) if len(p) else 0.0


_NUMBERS = ("step", "loss", "retained_ratio", "eval_loss", "eval_accuracy")
"""What a report reads from the log."""


def log_lines(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a run's ``log.jsonl``.

    Raises:
        UsageError: a line is not one that `LogFile` writes.
    """
    lines = []
    for number, line in JsonLines(path).records():
        numbers = [line.get(name, 0.0) for name in _NUMBERS] if isinstance(line, dict) else []
        if not numbers or "step" not in line or not all(isinstance(value, (int, float)) for value in numbers):
            raise UsageError(f"{path}:{number} is no line of a training log; delete the line")
        lines.append(line)
    return lines


class LogFile(TrainerCallback):
    """Writes each line of the log to ``log.jsonl``; a resumed run first drops the lines after its checkpoint."""

    def __init__(self, path: Path, from_step: int) -> None:
        self._lines = JsonLines(path)
        write_jsonl(path, [line for line in log_lines(path) if line["step"] <= from_step])

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Append a line."""
        if logs and ("loss" in logs or "eval_loss" in logs) and state.is_world_process_zero:
            self._lines.append({"step": state.global_step, **logs})


class StepProgress(TrainerCallback):
    """Reports finished steps as ``on_progress("training", step, steps)``."""

    def __init__(self, on_progress: Callable[[str, int, int], None]) -> None:
        self._on_progress = on_progress

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Report the step."""
        self._on_progress("training", state.global_step, state.max_steps)


class StopOnSigterm(TrainerCallback):
    """On SIGTERM, finishes the step, saves a checkpoint and stops; as a context manager it installs the handler."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None

    def __enter__(self) -> StopOnSigterm:
        self._previous = signal.signal(signal.SIGTERM, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._previous)

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Don't evaluate where the signal, and not the data, ended the epoch."""
        if self.requested and abs((state.epoch or 0) - round(state.epoch or 0)) > 1e-6:
            control.should_evaluate = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop after the same step in all processes, since the signal reaches them at different times."""
        if any_process(self.requested):
            self.requested = control.should_save = control.should_training_stop = True


def any_process(flag: bool) -> bool:
    """Whether ``flag`` is set in any of the processes that train together."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return flag
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    count = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(count, op=torch.distributed.ReduceOp.MAX)
    return bool(count.item())
