"""Joules from counters that the machine keeps itself. Where it keeps none, nothing is estimated.

CPU: the packages' RAPL counters under ``/sys/class/powercap`` (Intel and AMD on Linux; often readable by root only).
NVIDIA GPU: the total of NVML, by the optional package ``nvidia-ml-py``.
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
    """Joules since some moment."""
    wraps_at: float = 0.0
    """Joules at which it starts again from 0; 0 if it never does."""

    def between(self, before: float, after: float) -> float:
        """Joules spent, over one wrap at most."""
        return after - before + (self.wraps_at if after < before else 0.0)


@dataclass(frozen=True)
class EnergyMeter:
    """The counters of this machine, or why there is none."""

    counters: tuple[EnergyCounter, ...]
    missing: str = ""
    """Why something is not measured: empty if all is."""

    def read(self) -> list[float]:
        """Of all counters."""
        return [counter.read() for counter in self.counters]

    def joules(self, before: list[float]) -> float | None:
        """Spent since ``before``, all counters together; None without any."""
        if not self.counters:
            return None
        pairs = zip(self.counters, before, self.read(), strict=True)
        return sum(counter.between(old, new) for counter, old, new in pairs)

    @property
    def words(self) -> str:
        """What is measured, and what is not."""
        parts = [", ".join(counter.name for counter in self.counters)] if self.counters else []
        return "; ".join([*parts, *([f"unavailable: {self.missing}"] if self.missing else [])])


def energy_meter(device: torch.device, powercap: Path = POWERCAP) -> EnergyMeter:
    """The counters that apply to a model on ``device``: the CPU's packages, and its GPU."""
    counters, missing = rapl(powercap)
    if device.type == "cuda":
        found, why = nvml(device)
        counters, missing = [*counters, *found], "; ".join(part for part in (missing, why) if part)
    return EnergyMeter(tuple(counters), missing)


def rapl(powercap: Path) -> tuple[list[EnergyCounter], str]:
    """Counters of all CPU packages, or none and why."""
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

    joules()  # a counter that can't be read must be known of before the measuring
    most = int((zone / "max_energy_range_uj").read_text(encoding="ascii")) / 1e6
    name = (zone / "name").read_text(encoding="ascii").strip()
    return EnergyCounter(f"RAPL {name}", joules, most)


def nvml(device: torch.device) -> tuple[list[EnergyCounter], str]:
    """The counter of a GPU, or none and why."""
    try:
        import pynvml
    except ImportError:
        return [], f"no counter of the GPU without nvidia-ml-py ({install_hint('profile')})"
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError as error:
        return [], f"NVML gives no energy of the GPU ({error})"
    return [EnergyCounter("NVML GPU", lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3)], ""
