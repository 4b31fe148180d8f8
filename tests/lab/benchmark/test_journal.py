"""A journal resumes after a crash and never mixes two settings."""

import pytest

from omnisift.errors import UsageError
from omnisift.lab.benchmark.journal import Journal


def test_goes_on(tmp_path):
    path = tmp_path / "deep" / "run.jsonl"
    journal = Journal(path, {"retain": [0.25], "model": "a"})
    journal.add({"seed": 0, "x": 1})
    journal.add({"seed": 5, "x": 2})
    again = Journal(path, {"model": "a", "retain": [0.25]})
    assert again.records == {0: {"seed": 0, "x": 1}, 5: {"seed": 5, "x": 2}}


def test_other_settings_are_refused(tmp_path):
    path = tmp_path / "run.jsonl"
    Journal(path, {"model": "a"})
    with pytest.raises(UsageError, match="other settings"):
        Journal(path, {"model": "b"})


def test_a_broken_last_line_is_done_again(tmp_path):
    path = tmp_path / "run.jsonl"
    journal = Journal(path, {})
    journal.add({"seed": 0})
    with path.open("a") as file:
        file.write('{"seed": 1, "ans')
    again = Journal(path, {})
    assert list(again.records) == [0]
    again.add({"seed": 1})
    assert list(Journal(path, {}).records) == [0, 1]
