# ruff: noqa: ARG002 - the host fixes the arguments of a callback
"""Hugging Face Trainer for `CompressedModel`: two learning rates, retained ratio in the log, atomic checkpoints."""

from __future__ import annotations

import json
import signal
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    get_cosine_schedule_with_warmup,
)

from omnisift.models.training_checks import assert_compressed
from omnisift.training.finetune.checkpoints import load_weights, save_weights, seal
from omnisift.training.finetune.compressed_model import CompressedModel, Cost
from omnisift.training.finetune.guards import SelectorGuard
from omnisift.training.finetune.recipe import TrainRecipe
from omnisift.utils.atomic_io import write_atomic


class CompressedTrainer(Trainer):
    """What a recipe asks for; see `fine_tune`."""

    def __init__(self, recipe: TrainRecipe, sifted: CompressedModel, guard: SelectorGuard, **kwargs: Any) -> None:
        super().__init__(model=sifted, **kwargs)
        self.recipe, self.sifted, self.guard = recipe, sifted, guard
        self.model_accepts_loss_kwargs = True
        self.skipped: dict[str, str] = {}
        """Samples that the collator left out, in whichever process it ran, and why."""
        self._noted: dict[str, list[float]] = defaultdict(list)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The host's, and a look at the gradients before they are clipped."""
        loss: Tensor = super().training_step(*args, **kwargs)
        self.guard.look()
        return loss

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The batch's `Cost`, after a look at whether it was compressed."""
        self.skipped |= inputs.pop("skipped", {})
        if self.sifted.estimator is not None:
            self.sifted.estimator.progress = self.state.global_step / max(1, self.state.max_steps)
        if num_items_in_batch is not None and int(num_items_in_batch) == 0:
            num_items_in_batch = torch.ones_like(torch.as_tensor(num_items_in_batch))
        cost: Cost = model(**inputs, num_items_in_batch=num_items_in_batch)
        assert_compressed(self.sifted.attachment, inputs["input_ids"])
        self._note()
        loss = cost.loss
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # the number is that of all processes, their mean is taken
        return (loss, None) if return_outputs else loss

    def _note(self) -> None:
        last, selection = self.sifted.attachment.last, self.sifted.attachment.selection
        if last is None:
            return
        self._noted["retained_ratio"].append(last.retained_ratio)
        self._noted["retained_video"].append(last.kept_video / max(1, last.n_video))
        if not last.n_audio:
            return
        self.guard.heard = True
        self._noted["retained_audio"].append(last.kept_audio / last.n_audio)
        if selection is not None and selection.scores is not None and self.sifted.selector is not None:
            self._noted["selector_entropy"].append(entropy(last.scores, last.modality))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The host's numbers, and the means of ours since the last line."""
        if "loss" in logs:
            logs = logs | {name: sum(values) / len(values) for name, values in self._noted.items()}
            if self.sifted.selector is not None:
                logs["selector_grad_norm"] = self.guard.norm
            self._noted.clear()
        super().log(logs, start_time)

    def create_optimizer(self, model: Any = None) -> Any:
        """AdamW; the selector has a rate of its own."""
        if self.optimizer is None:
            recipe, selector = self.recipe, self.sifted.selector
            own = {id(p) for p in selector.parameters()} if selector is not None else set()
            learns = [p for p in self.sifted.parameters() if p.requires_grad]
            groups = [
                {"params": [p for p in learns if id(p) not in own], "lr": recipe.rate},
                {"params": [p for p in learns if id(p) in own], "lr": recipe.selector_rate or recipe.rate},
            ]
            kept = [group for group in groups if group["params"]]
            self.optimizer = torch.optim.AdamW(kept, betas=(0.9, 0.98), weight_decay=recipe.weight_decay)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Warm-up, then a cosine."""
        recipe, learner = self.recipe, optimizer or self.create_optimizer()
        self.lr_scheduler = get_cosine_schedule_with_warmup(
            learner, int(recipe.warmup * num_training_steps), num_training_steps, recipe.cycles
        )
        return self.lr_scheduler

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        save_weights(self.sifted, Path(output_dir or str(self.args.output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # each process its shards
        else:
            load_weights(self.sifted, Path(resume_from_checkpoint))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()  # each process writes files of its own
        if self.args.should_save:
            seal(Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}")


def entropy(scores: Tensor | None, modality: Tensor) -> float:
    """Mean entropy in bits of the audio tokens' scores, each read as a probability; 0 where none was scored."""
    if scores is None:
        return 0.0
    p = scores[(modality == 2) & ~scores.isnan()].double().clamp(1e-9, 1 - 1e-9)
    return float(-(p * p.log2() + (1 - p) * (1 - p).log2()).mean()) if len(p) else 0.0


class Journal(TrainerCallback):
    """``log.jsonl``: a line for each line of the log; those behind the checkpoint that a run resumes from go."""

    def __init__(self, path: Path, from_step: int) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        kept = [line for line in lines if _step_of(line) <= from_step]
        write_atomic(path, "".join(line + "\n" for line in kept))

    def on_log(  # the host fixes the arguments
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Append."""
        if logs and "loss" in logs and state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **logs}) + "\n")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # torn by a kill


class Terminate(TrainerCallback):
    """On SIGTERM: finish the step, save, stop. A scheduler's notice must not cost what was learned."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Terminate:
        self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop, in all processes after the same step: the signal reaches them at different moments."""
        if any_process(self.asked):
            self.asked = control.should_save = control.should_training_stop = True


def any_process(flag: bool) -> bool:
    """Whether ``flag`` is set in any of the processes that train together."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return flag
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    found = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
    return bool(found.item())
