# ruff: noqa: ARG002 - the host fixes the arguments of a callback
"""How far a run is: by steps, or by minutes where a budget is given; the learning rate follows it."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState


class Clock(TrainerCallback, ExportableState):
    """Counts the minutes of a run over all its resumptions and ends it when they are spent."""

    def __init__(self, steps: int, minutes: float | None = None, spent: float = 0.0):
        self.steps, self.minutes = steps, minutes
        self.spent = spent
        self._since: float | None = None

    def state(self) -> dict[str, Any]:
        """What a checkpoint must remember."""
        return {
            "args": {"steps": self.steps, "minutes": self.minutes},
            "attributes": {"spent": self.elapsed()},
        }

    def elapsed(self) -> float:
        """Minutes of training so far."""
        return self.spent + (0.0 if self._since is None else (time.monotonic() - self._since) / 60)

    def progress(self, step: int) -> float:
        """0 at the start, 1 at the end."""
        by_steps = step / self.steps
        return min(1.0, by_steps if self.minutes is None else max(by_steps, self.elapsed() / self.minutes))

    def on_train_begin(  # the host fixes the arguments
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Start counting."""
        self._since = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop when the budget is spent."""
        control.should_training_stop |= self.progress(state.global_step) >= 1.0


def rate_factor(step: int, progress: float, warmup: int = 100, decay: float = 0.4) -> float:
    """Share of the peak rate: warm-up, flat, then a straight line down over the last ``decay`` of the run."""
    return min(1.0, (step + 1) / max(1, warmup)) * max(0.02, min(1.0, (1.0 - progress) / decay))
