"""Peak memory of the stages: what torch's allocator holds at most, beyond what it held before the question.

On a GPU that is ``torch.cuda``'s own statistics. A CPU keeps none, and the resident size of a process says little
(freed memory stays with it), so there torch's profiler notes every allocation. Either way only tensors count: not the
decoder's buffers, and not the weights, which were there before.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from omnisift.profiling.stages import MODEL_STAGES, Gauge

_MARK = "omnisift stage "


class MemoryGauge(Gauge):
    """``peaks`` in bytes by stage, of the ``device`` that the model runs on; ready once it is left."""

    source: str
    """What was asked, in words."""

    def __init__(self) -> None:
        super().__init__()
        self.peaks = dict.fromkeys(MODEL_STAGES, 0)

    def _note(self, stage: str, peak: int) -> None:
        if stage in self.peaks:
            self.peaks[stage] = max(self.peaks[stage], peak)


class CudaMemoryGauge(MemoryGauge):
    """By the statistics of the device."""

    source = "torch.cuda.max_memory_allocated, above what was allocated before"

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self._base = torch.cuda.memory_allocated(device)

    def begin(self, stage: str) -> None:  # noqa: ARG002
        """A new peak."""
        torch.cuda.reset_peak_memory_stats(self._device)

    def end(self, stage: str) -> None:
        """Read it."""
        self._note(stage, torch.cuda.max_memory_allocated(self._device) - self._base)


class CpuMemoryGauge(MemoryGauge):
    """By a trace of all allocations, with marks where the stages begin."""

    source = "allocations of tensors, traced by torch.profiler"

    def __init__(self) -> None:
        super().__init__()
        self._trace: Any = profile(activities=[ProfilerActivity.CPU], profile_memory=True)

    def begin(self, stage: str) -> None:
        """Leave a mark in the trace."""
        with record_function(_MARK + stage):
            pass

    def end(self, stage: str) -> None:
        """The next mark ends it."""

    def __enter__(self) -> CpuMemoryGauge:
        self._trace.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._trace.__exit__(kind, error, trace)
        if error is None:
            self._add_up()

    def _add_up(self) -> None:
        live, stage = 0, ""
        for event in sorted(_events(self._trace), key=lambda event: int(event.start_ns())):
            if event.name().startswith(_MARK):
                stage = event.name().removeprefix(_MARK)
            elif event.name() == "[memory]":
                live += event.nbytes()
            self._note(stage, live)


def _events(trace: Any) -> Any:
    return trace.profiler.kineto_results.events()


def memory_gauge(device: torch.device) -> MemoryGauge:
    """For the device of the model."""
    return CudaMemoryGauge(device) if device.type == "cuda" else CpuMemoryGauge()
