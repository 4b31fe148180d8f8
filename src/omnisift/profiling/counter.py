"""FLOPs of each stage, counted by torch during the forward pass."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from omnisift.profiling.stages import MODEL_STAGES, Gauge


def torch_counter() -> FlopCounterMode:
    """Return torch's counter with a formula for the fused attention of CPUs, which it skips by default."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={kernel: _attention})


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """The count of torch for its GPU kernels, from the shapes."""
    count: Any = sdpa_flop_count
    return int(count(query, key, value))


class FlopGauge(Gauge):
    """Count ``flops`` by stage. Counting slows down every operation, so times are measured without it."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = dict.fromkeys(MODEL_STAGES, 0)
        self._counter = torch_counter()
        self._exit = ExitStack()
        self._before = 0

    def begin(self, stage: str) -> None:  # noqa: ARG002
        """Store the count so far."""
        self._before = self._counter.get_total_flops()

    def end(self, stage: str) -> None:
        """Add the difference to ``stage``."""
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
