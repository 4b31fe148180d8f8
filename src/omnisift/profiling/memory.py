"""Peak memory of each stage: the maximum that torch's allocator holds, less what it held before the question.

On a GPU the statistics of ``torch.cuda`` give it. A CPU has none, and the resident size of a process includes freed
memory, so torch's profiler records every allocation there. In both cases only tensors count: not the buffers of the
media decoder, and not the weights, which are allocated before.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from omnisift.profiling.stages import MODEL_STAGES, Gauge

_MARK = "omnisift stage "


class MemoryGauge(Gauge):
    """Measure ``peaks`` in bytes by stage; they are complete when the context is left."""

    source: str
    """Description of the source of the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.peaks = dict.fromkeys(MODEL_STAGES, 0)

    def _note(self, stage: str, peak: int) -> None:
        if stage in self.peaks:
            self.peaks[stage] = max(self.peaks[stage], peak)


class CudaMemoryGauge(MemoryGauge):
    """Peaks from the statistics of a CUDA device."""

    source = "torch.cuda.max_memory_allocated, above what was allocated before"

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device
        self._base = torch.cuda.memory_allocated(device)

    def begin(self, stage: str) -> None:  # noqa: ARG002
        """Reset the peak."""
        torch.cuda.reset_peak_memory_stats(self._device)

    def end(self, stage: str) -> None:
        """Read the peak."""
        self._note(stage, torch.cuda.max_memory_allocated(self._device) - self._base)


class CpuMemoryGauge(MemoryGauge):
    """Peaks from a trace of all allocations, with a mark at the start of each stage."""

    source = "allocations of tensors, traced by torch.profiler"

    def __init__(self) -> None:
        super().__init__()
        self._trace: Any = profile(activities=[ProfilerActivity.CPU], profile_memory=True)

    def begin(self, stage: str) -> None:
        """Set a mark in the trace."""
        with record_function(_MARK + stage):
            pass

    def end(self, stage: str) -> None:
        """Do nothing: the next mark ends the stage."""

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
        # Sum allocations and frees in order of time; the peak of a stage is the largest sum until the next mark.
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
    """Return the gauge for the device of a model."""
    return CudaMemoryGauge(device) if device.type == "cuda" else CpuMemoryGauge()
