# ruff: noqa: ARG002 - the host fixes the arguments of a callback
"""Length and learning rate of a training run that is limited by steps or by minutes."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState


class RunLimit(TrainerCallback, ExportableState):
    """Ends a run after a number of steps, or of minutes over all its resumptions.

    Args:
        steps: optimizer steps of the run.
        minutes: time limit; None means steps alone.
        spent: minutes of earlier parts of the run.
    """

    def __init__(self, steps: int, minutes: float | None = None, spent: float = 0.0):
        self.steps, self.minutes = steps, minutes
        self.spent = spent
        self._since: float | None = None

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores."""
        return {
            "args": {"steps": self.steps, "minutes": self.minutes},
            "attributes": {"spent": self.elapsed()},
        }

    def elapsed(self) -> float:
        """Minutes of training so far."""
        return self.spent + (0.0 if self._since is None else (time.monotonic() - self._since) / 60)

    def progress(self, step: int) -> float:
        """Share of the run that is done after ``step`` steps, from 0 to 1."""
        by_steps = step / self.steps
        return min(1.0, by_steps if self.minutes is None else max(by_steps, self.elapsed() / self.minutes))

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Start the clock."""
        self._since = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop at the limit."""
        control.should_training_stop |= self.progress(state.global_step) >= 1.0


def rate_factor(step: int, progress: float, warmup: int = 100, decay: float = 0.4) -> float:
    """Share of the peak learning rate: linear warm-up, constant, then linear decay.

    Args:
        step: optimizer steps so far.
        progress: share of the run that is done.
        warmup: steps of warm-up.
        decay: share of the run in which the rate falls.
    """
    return min(1.0, (step + 1) / max(1, warmup)) * max(0.02, min(1.0, (1.0 - progress) / decay))
