"""`benchmarks/mutation.py`: each planted fault still applies to the source, and a survivor is reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import mutation
from benchmarks.mutation import FAULTS, Fault

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_fault_replaces_one_line_of_the_package(fault: Fault) -> None:
    assert mutation.find(fault, ROOT / "src").is_file()
    assert fault.new not in (fault.old, "")
    assert "\n" not in fault.old + fault.new
    assert (ROOT / fault.tests[0]).is_file()


def test_there_are_fourteen_faults() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) == 14


@pytest.mark.slow
def test_a_survivor_is_reported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tests = ("tests/test_budget.py", "-k", "shows_what_was_given")
    caught = Fault("wrong", "f\"Budget({', '.join(", "f\"Badget({', '.join(", tests)
    survivor = Fault("unnoticed", "AUDIO_BONUS = 0.25", "AUDIO_BONUS = 0.5", tests)
    monkeypatch.setattr(mutation, "FAULTS", (caught,))
    assert mutation.main([]) == 0
    monkeypatch.setattr(mutation, "FAULTS", (caught, survivor))
    assert mutation.main([]) == 1
    results = [json.loads(line)["result"] for line in capsys.readouterr().out.splitlines()]
    assert results == ["caught", "caught", "survived"]
