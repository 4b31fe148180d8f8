# ruff: noqa: ARG002 - the host fixes the arguments of a callback
"""Checks that stop a run whose processes are not connected, whose model is not sharded or whose selector is stuck."""

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
"""Optimizer steps in a row without a gradient of the selector after which a run stops."""


def check_world(expected: int | None = None) -> int:
    """Check how many processes train together.

    Some launchers start processes on a CPU that never connect, so that each trains a model of its own; others start
    one process where several were requested.

    Args:
        expected: the required number; None takes ``WORLD_SIZE``, which the launcher sets.

    Returns:
        The number of connected processes.

    Raises:
        TrainingError: it is not the expected number.
    """
    expected = int(os.environ.get("WORLD_SIZE", "1")) if expected is None else expected
    connected = torch.distributed.is_available() and torch.distributed.is_initialized()
    actual = torch.distributed.get_world_size() if connected else 1
    if actual != expected:
        raise TrainingError(world_error(expected, actual))
    return actual


def world_error(expected: int | None, actual: int) -> str:
    """The message where ``expected`` processes should train together and ``actual`` do."""
    return (
        f"{expected} processes should train together, but {actual} are connected; "
        "docs/fine-tuning.md shows launch commands that work on this device"
    )


def check_sharding(deepspeed: bool, fsdp: bool) -> None:
    """Check that the sharding that the launcher requested is on; on a CPU accelerate ignores FSDP silently.

    Args:
        deepspeed: whether DeepSpeed is on.
        fsdp: whether FSDP is on.

    Raises:
        TrainingError: one was requested and is off.
    """
    for name, requested, active in (
        ("DeepSpeed", launcher_requests("DEEPSPEED"), deepspeed),
        ("FSDP", launcher_requests("FSDP"), fsdp),
    ):
        if requested and not active:
            raise TrainingError(
                f"the launcher requested {name}, which accelerate does not support on this device; every process would "
                "hold the full model: launch with torchrun instead (docs/fine-tuning.md)"
            )


def launcher_requests(backend: str) -> bool:
    """Whether `accelerate launch` got a configuration of ``backend``: DEEPSPEED or FSDP."""
    return os.environ.get(f"ACCELERATE_USE_{backend}", "false").lower() == "true"


def gradient_norm(module: Any) -> float:
    """Norm of all gradients of ``module`` together, sharded or not; 0 where there are none."""
    norms = [p.grad.detach().float().norm() for p in module.parameters() if p.grad is not None]
    full = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    return float(torch.stack(full).norm()) if full else 0.0


class SelectorGuard(TrainerCallback):
    """Records the norm of the selector's gradient and stops a run in which it stays zero."""

    def __init__(self, model: CompressedModel, patience: int = PATIENCE) -> None:
        self.model, self.patience = model, patience
        self.norm = 0.0
        """Norm of the selector's gradient in the latest step, before clipping. DeepSpeed removes gradients as they are
        computed: there it is the root of the summed squares of this process's passes."""
        self._squares = 0.0
        for parameter in [] if model.selector is None else model.selector.parameters():
            if parameter.requires_grad:
                parameter.register_hook(self._add_square)
        self.steps_without_gradient = 0
        """Steps in a row with audio to select and no gradient."""
        self.has_audio = False
        """Whether any batch of this step had audio along with video."""

    def _add_square(self, gradient: Tensor) -> None:
        self._squares += float(gradient.detach().float().norm()) ** 2

    def record_norm(self) -> None:
        """Measure the gradient; call it after every backward pass."""
        if self.model.selector is not None:
            self.norm = gradient_norm(self.model.selector) or self._squares**0.5

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count the steps without a gradient.

        Raises:
            TrainingError: there were ``patience`` of them in a row.
        """
        self._squares = 0.0
        if self.has_audio:
            self.steps_without_gradient = 0 if self.norm > 0 else self.steps_without_gradient + 1
        self.has_audio = False
        if self.steps_without_gradient >= self.patience:
            raise TrainingError(
                f"the selector got no gradient for {self.steps_without_gradient} steps with audio under estimator "
                f"{getattr(self.model.estimator, 'name', None)!r}; choose another estimator (docs/estimators.md), or "
                "set train_selector: false"
            )
