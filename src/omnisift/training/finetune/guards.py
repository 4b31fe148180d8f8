# ruff: noqa: ARG002 - the host fixes the arguments of a callback
"""A run that trains without compression, or whose selector does not learn, must stop and say so."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from omnisift.errors import TrainingError
from omnisift.training.finetune.compressed_model import CompressedModel

PATIENCE = 50
"""Optimiser steps in a row without a gradient of the selector."""


def check_world(wanted: int | None = None) -> int:
    """The number of processes that train together. Raises `TrainingError` if it is not ``wanted``.

    None means what the launcher says in ``WORLD_SIZE``. Some launchers on a CPU start processes that never join, each
    of which would train a model of its own; others start one where several were asked for, without a word.
    """
    wanted = int(os.environ.get("WORLD_SIZE", "1")) if wanted is None else wanted
    joined = torch.distributed.is_available() and torch.distributed.is_initialized()
    found = torch.distributed.get_world_size() if joined else 1
    if found != wanted:
        raise TrainingError(
            f"{wanted} processes should train together, but this one finds {found}: they are not connected, or were "
            "never started; see docs/fine-tuning.md for a launch that works on this device"
        )
    return found


def check_sharding(deepspeed: bool, fsdp: bool) -> None:
    """Raise `TrainingError` if the launcher asked for sharding and none is on; the arguments say what is on.

    On a CPU accelerate takes an FSDP configuration and trains plain copies, without a word.
    """
    for name, asked, found in (("DeepSpeed", asks("DEEPSPEED"), deepspeed), ("FSDP", asks("FSDP"), fsdp)):
        if asked and not found:
            raise TrainingError(
                f"the launcher asked for {name}, and every process would hold all of the model: accelerate has no "
                f"{name} on this device; launch with torchrun instead (docs/fine-tuning.md)"
            )


def asks(way: str) -> bool:
    """Whether `accelerate launch` was given a configuration of ``way``, DEEPSPEED or FSDP."""
    return os.environ.get(f"ACCELERATE_USE_{way}", "false").lower() == "true"


def gradient_norm(module: Any) -> float:
    """Of all parameters of ``module`` together, sharded or not; 0 where there is none."""
    norms = [p.grad.detach().float().norm() for p in module.parameters() if p.grad is not None]
    whole = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    return float(torch.stack(whole).norm()) if whole else 0.0


class SelectorGuard(TrainerCallback):
    """Notes the selector's gradient in every optimiser step, and ends a run in which it stays away."""

    def __init__(self, sifted: CompressedModel, patience: int = PATIENCE) -> None:
        self.sifted, self.patience = sifted, patience
        self.norm = 0.0
        """Norm of the selector's gradient in the latest step, before clipping. Where DeepSpeed takes gradients away as
        they come: the root of the summed squares of this process's passes."""
        self._squares = 0.0
        for parameter in [] if sifted.selector is None else sifted.selector.parameters():
            if parameter.requires_grad:
                parameter.register_hook(self._passed)
        self.without = 0
        """Steps in a row that had sound to select and no gradient."""
        self.heard = False
        """Whether any batch of this step had sound beside a picture."""

    def _passed(self, gradient: Tensor) -> None:
        self._squares += float(gradient.detach().float().norm()) ** 2

    def look(self) -> None:
        """Call it behind every backward pass."""
        if self.sifted.selector is not None:
            self.norm = gradient_norm(self.sifted.selector) or self._squares**0.5

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count."""
        self._squares = 0.0
        if self.heard:
            self.without = 0 if self.norm > 0 else self.without + 1
        self.heard = False
        if self.without >= self.patience:
            raise TrainingError(
                f"the selector got no gradient for {self.without} steps with sound: estimator "
                f"{getattr(self.sifted.estimator, 'name', None)!r} does not reach it; choose another "
                "(docs/estimators.md), or set train_selector: false to keep it as it is"
            )
