"""Training loop of selectors and of lab's models: AdamW, a schedule, clipped gradients, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from omnisift.utils.atomic_io import atomic_file
from omnisift.utils.checkpoint_files import checkpoint_errors
from omnisift.utils.safetensors_files import open_safetensors

Schedule = Callable[[float, int], float]
"""(peak learning rate, number of the step from 0) -> the learning rate of this step."""
MAX_GRAD_NORM = 1.0


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with one learning rate."""

    parameters: list[nn.Parameter]
    learning_rate: float
    """The peak."""
    weight_decay: float = 0.01


@dataclass(frozen=True)
class Checkpoint:
    """State of an unfinished run: one file, replaced atomically."""

    path: Path
    module: nn.Module
    """What is trained."""
    every: int = 200
    """Steps between two saves; the last step is saved too."""

    def save(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Write the state after ``step`` steps."""
        tensors = {f"module.{name}": tensor for name, tensor in self._tensors().items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.path) as unfinished:
            contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
            save_file(contiguous, str(unfinished), metadata={"step": str(step)})

    def load(self, optimizer: torch.optim.Optimizer) -> int:
        """Restore the state and return the number of finished steps; 0 without a file."""
        if not self.path.is_file():
            return 0
        with open_safetensors(self.path) as file:
            saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            step = int(file.metadata()["step"])
        with torch.no_grad(), checkpoint_errors(self.path, "delete it to start again"):
            for name, tensor in self._tensors().items():
                tensor.copy_(saved[f"module.{name}"])
            state: dict[int, dict[str, Tensor]] = {}
            for name, tensor in saved.items():
                if name.startswith("optimizer."):
                    _, index, key = name.split(".")
                    state.setdefault(int(index), {})[key] = tensor
            # Learning rates follow from the step, so the groups are those of the new optimizer.
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return step

    def _tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers; of tied ones the first."""
        return {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}


def linear_schedule(steps: int, warmup_steps: int = 20, decay: float = 0.5, floor: float = 0.02) -> Schedule:
    """Return a schedule that rises linearly, stays, and falls linearly over the last ``decay`` of the steps.

    Args:
        steps: Steps of the run.
        warmup_steps: Steps in which the rate rises.
        decay: Fraction of the steps in which the rate falls.
        floor: Smallest fraction of the peak after the warm-up.
    """

    def rate(peak: float, step: int) -> float:
        return peak * min(1.0, (step + 1) / warmup_steps) * max(floor, min(1.0, (steps - step) / (decay * steps)))

    return rate


def train_steps(
    loss_of: Callable[[int], Tensor],
    groups: Sequence[ParameterGroup],
    steps: int,
    schedule: Schedule,
    *,
    clip: Sequence[Sequence[nn.Parameter]] | None = None,
    fused: bool = False,
    after_step: Callable[[int, float], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> list[float]:
    """Train parameters in place with AdamW.

    Args:
        loss_of: Number of a step from 0 -> its loss. It draws the step's data by this number, so that a resumed run
            sees the same data.
        groups: What is trained.
        steps: Optimizer steps.
        schedule: Learning rate of every step.
        clip: Sets of parameters whose gradients are clipped together; each group by default.
        fused: Whether AdamW runs as one kernel, whose rounding differs.
        after_step: Called with the number of finished steps and the loss.
        checkpoint: Where the state is saved, and from where the run resumes.

    Returns:
        The loss of each step of this call.
    """
    optimizer = torch.optim.AdamW(
        [{"params": group.parameters, "weight_decay": group.weight_decay} for group in groups],
        betas=(0.9, 0.98),
        fused=fused,
    )
    losses = []
    for step in range(checkpoint.load(optimizer) if checkpoint else 0, steps):
        loss = loss_of(step)
        for group, options in zip(groups, optimizer.param_groups, strict=True):
            options["lr"] = schedule(group.learning_rate, step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for parameters in clip or [group.parameters for group in groups]:
            nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimizer.step()
        losses.append(float(loss.detach()))
        if after_step is not None:
            after_step(step + 1, losses[-1])
        if checkpoint is not None and ((step + 1) % checkpoint.every == 0 or step + 1 == steps):
            checkpoint.save(step + 1, optimizer)
    return losses
