"""Energy comes from counters of the machine, or not at all. The counters here are files that the tests write."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from omnisift.profiling.gauges import EnergyCounter, energy_meter, nvml, rapl

CPU = torch.device("cpu")


def zone(folder: Path, name: str, microjoules: int, label: str = "package-0") -> Path:
    place = folder / name
    place.mkdir(parents=True)
    (place / "energy_uj").write_text(f"{microjoules}\n", encoding="ascii")
    (place / "max_energy_range_uj").write_text("100000000\n", encoding="ascii")
    (place / "name").write_text(f"{label}\n", encoding="ascii")
    return place / "energy_uj"


def test_packages_are_added_and_their_parts_are_not(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", 1_000_000)
    second = zone(tmp_path, "intel-rapl:1", 99_000_000, "package-1")
    zone(tmp_path, "intel-rapl:0:0", 500_000, "core")  # inside package 0: counting it twice would be wrong
    result = energy_meter(CPU, tmp_path)
    before = result.read()
    first.write_text("3500000", encoding="ascii")
    second.write_text("4000000", encoding="ascii")  # past its range of 100 J
    assert result.joules(before) == pytest.approx(2.5 + 5.0)
    assert result.words == "RAPL package-0, RAPL package-1"


def test_no_counter_is_said_and_nothing_is_estimated(tmp_path: Path) -> None:
    result = energy_meter(CPU, tmp_path / "nothing")
    assert result.joules(result.read()) is None
    assert result.words.startswith("unavailable: no RAPL counters under")


def test_a_counter_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 5).unlink()
    counters, why = rapl(tmp_path)
    assert counters == []
    assert "not readable" in why


class Library:
    """As much of NVML's binding as is used, without a GPU: one device, which has spent 7.5 J."""

    class NVMLError(Exception):
        pass

    def __init__(self, broken: bool) -> None:
        self.broken = broken

    def nvmlInit(self) -> None:
        if self.broken:
            raise self.NVMLError("no driver")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        return {"GPU-abc": 7500}[handle]


@pytest.mark.parametrize("broken", [False, True])
def test_a_gpu_is_asked_by_its_own_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broken: bool) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Library(broken))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="abc"))
    result = energy_meter(torch.device("cuda:1"), tmp_path)
    assert result.read() == ([] if broken else [7.5])
    assert ("no driver" in result.words) == broken
    assert "no RAPL counters" in result.words  # what is not in the sum is said


def test_a_gpu_without_its_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    counters, why = nvml(torch.device("cuda"))
    assert counters == []
    assert "nvidia-ml-py" in why


def test_a_counter_that_never_wraps() -> None:
    assert EnergyCounter("NVML GPU", lambda: 0.0).between(3.0, 4.5) == 1.5
