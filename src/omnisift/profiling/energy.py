"""Energy in joules from hardware counters; without a counter nothing is estimated.

CPU: the RAPL counters of the packages under ``/sys/class/powercap`` (Intel and AMD on Linux; often readable by root
only). NVIDIA GPU: the total of NVML, through the optional package ``nvidia-ml-py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from omnisift.errors import install_hint

POWERCAP = Path("/sys/class/powercap")


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
    """The energy counters of a machine."""

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
