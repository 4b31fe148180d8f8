"""Stages of a question, and gauges of their FLOPs, memory and energy.

`Pipeline.ask` reports each stage as it begins; a gauge is read at these moments, so the pipeline itself is measured.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from omnisift.errors import install_hint
from omnisift.utils.stages import STAGES

MODEL_STAGES = tuple(STAGES)[2:]
"""Stages that run torch; reading and preparing a clip do not."""
POWERCAP = Path("/sys/class/powercap")
_MARK = "omnisift stage "
_QUANTIZED = (
    ("aten", "_int_mm", 1), ("quanto", "qbytes_mm", 1), ("bitsandbytes", "gemm_4bit", 2),
    ("bitsandbytes", "gemv_4bit", 2), ("bitsandbytes", "int8_mixed_scaled_mm", 2),
    ("bitsandbytes", "int8_scaled_mm", 1),
)  # fmt: skip
"""Library, product of rows with quantised weights, and the number of the argument that has the shape of the weights."""


class Gauge(ABC):
    """Context that measures every stage; pass ``gauge.stage`` to ``Pipeline.ask(on_stage=...)``."""

    def __init__(self) -> None:
        self._running: str | None = None

    @abstractmethod
    def begin(self, stage: str) -> None:
        """Start the measurement of a stage."""

    @abstractmethod
    def end(self, stage: str) -> None:
        """End the measurement of a stage, which can begin again."""

    def stage(self, name: str) -> None:
        """End the running stage and begin the stage ``name``."""
        self._stop()
        self._running = name
        self.begin(name)

    def _stop(self) -> None:
        if self._running is not None:
            self.end(self._running)
        self._running = None

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()


def torch_counter() -> FlopCounterMode:
    """Return torch's counter with formulas for what it skips.

    These are the fused attention of CPUs, and products with experts and with quantised weights.
    """
    formulas = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
    experts = getattr(torch.ops.aten, "_grouped_mm", None), getattr(torch.ops.transformers, "grouped_mm_fallback", None)
    formulas |= {product: _grouped_product for product in experts if product is not None}
    for library, name, weights in _QUANTIZED:
        product = getattr(getattr(torch.ops, library), name, None)
        if product is not None:
            formulas[product] = partial(_quantized_product, weights)
    return FlopCounterMode(display=False, custom_mapping=formulas)


def _quantized_product(weights: int, *shapes: Any, **_: Any) -> int:
    """Products of [..., K] rows with an [N, K] matrix, which argument number ``weights`` is or states the shape of."""
    return 2 * math.prod(map(int, shapes[0])) * math.prod(map(int, shapes[weights])) // int(shapes[0][-1])


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """The count of torch for its GPU kernels, from the shapes."""
    count: Any = sdpa_flop_count
    return int(count(query, key, value))


def _grouped_product(rows: Any, matrices: Any, *_: Any, **__: Any) -> int:
    """Products of [N, K] rows, each with one of the [E, K, M] matrices."""
    return 2 * math.prod(map(int, rows)) * int(matrices[-1])


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


class MemoryGauge(Gauge):
    """Measure ``peaks`` in bytes by stage: the maximum that torch's allocator holds, less what it held before.

    On a GPU the statistics of ``torch.cuda`` give it. A CPU has none, and the resident size of a process includes freed
    memory, so torch's profiler records every allocation there. Only tensors count: not the buffers of the media
    decoder, and not the weights, which are allocated before. The peaks are complete when the context is left.
    """

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


@dataclass(frozen=True)
class EnergyCounter:
    """One energy counter."""

    name: str
    read: Callable[[], float]
    """Return the counter in joules; only differences are meaningful."""
    wraps_at: float = 0.0
    """Joules at which the counter restarts from 0; 0 if it does not."""

    def between(self, before: float, after: float) -> float:
        """Return the joules between two readings, with at most one restart in between."""
        return after - before + (self.wraps_at if after < before else 0.0)


@dataclass(frozen=True)
class EnergyMeter:
    """The energy counters of a machine; without a counter nothing is estimated.

    CPU: the RAPL counters of the packages under ``/sys/class/powercap`` (Intel and AMD on Linux; often readable by root
    only). NVIDIA GPU: the total of NVML, through the optional package ``nvidia-ml-py``.
    """

    counters: tuple[EnergyCounter, ...]
    missing: str = ""
    """Why a part is not measured; empty if all parts are."""

    def read(self) -> list[float]:
        """Read all counters."""
        return [counter.read() for counter in self.counters]

    def joules(self, before: list[float]) -> float | None:
        """Return the joules since ``before``, a result of `read`, over all counters; None without counters."""
        if not self.counters:
            return None
        pairs = zip(self.counters, before, self.read(), strict=True)
        return sum(counter.between(old, new) for counter, old, new in pairs)

    @property
    def words(self) -> str:
        """Description of what is measured and what is not."""
        parts = [", ".join(counter.name for counter in self.counters)] if self.counters else []
        return "; ".join([*parts, *([f"unavailable: {self.missing}"] if self.missing else [])])


def energy_meter(device: torch.device, powercap: Path = POWERCAP) -> EnergyMeter:
    """Return the counters for a model on ``device``: the CPU packages, and the GPU if it is one."""
    counters, missing = rapl(powercap)
    if device.type == "cuda":
        on_gpu, reason = nvml(device)
        counters, missing = [*counters, *on_gpu], "; ".join(part for part in (missing, reason) if part)
    return EnergyMeter(tuple(counters), missing)


def rapl(powercap: Path) -> tuple[list[EnergyCounter], str]:
    """Return the counters of all CPU packages, or none and the reason."""
    zones = [zone for zone in sorted(powercap.glob("intel-rapl:*")) if zone.name.count(":") == 1]
    if not zones:
        return [], f"no RAPL counters under {powercap}"
    try:
        return [_package(zone) for zone in zones], ""
    except OSError as error:
        return [], f"RAPL counters are not readable ({error.strerror}: {error.filename})"


def _package(zone: Path) -> EnergyCounter:
    file = zone / "energy_uj"

    def joules() -> float:
        return int(file.read_text(encoding="ascii")) / 1e6

    joules()  # raise here, before the measurement, if the counter is not readable
    max_joules = int((zone / "max_energy_range_uj").read_text(encoding="ascii")) / 1e6
    name = (zone / "name").read_text(encoding="ascii").strip()
    return EnergyCounter(f"RAPL {name}", joules, max_joules)


def nvml(device: torch.device) -> tuple[list[EnergyCounter], str]:
    """Return the counter of a GPU, or none and the reason."""
    try:
        import pynvml
    except ImportError:
        return [], f"the GPU counter needs nvidia-ml-py ({install_hint('profile')})"
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError as error:
        return [], f"NVML has no energy counter for the GPU ({error})"
    return [EnergyCounter("NVML GPU", lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)], ""
