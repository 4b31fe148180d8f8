"""FLOPs of the stages as torch counts them while they run."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from omnisift.profiling.stages import MODEL_STAGES, Gauge


def torch_counter() -> FlopCounterMode:
    """Torch's counter, which also sees attention on a CPU.

    By itself it has no formula for the CPU's fused attention and passes over it without a word.
    """
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={kernel: _attention})


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Shapes in, operations out: as torch counts its kernels for a GPU."""
    count: Any = sdpa_flop_count
    return int(count(query, key, value))


class FlopGauge(Gauge):
    """``flops`` by stage. Counting slows every operation: don't take times under it."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = dict.fromkeys(MODEL_STAGES, 0)
        self._counter = torch_counter()
        self._exit = ExitStack()
        self._before = 0

    def begin(self, stage: str) -> None:  # noqa: ARG002
        """Note the count so far."""
        self._before = self._counter.get_total_flops()

    def end(self, stage: str) -> None:
        """What was added belongs to ``stage``."""
        if stage in self.flops:
            self.flops[stage] += self._counter.get_total_flops() - self._before

    def __enter__(self) -> FlopGauge:
        self._exit.enter_context(self._counter)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._exit.close()
