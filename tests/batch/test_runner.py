"""The loop: a bad clip is a row, a broken engine ends the run behind its row, a stop comes between rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.batch.fakes import SETTINGS, Fake, FakeOfMany, items, rows

from omnisift.batch import Ledger, ModelSettings, Moderate, Question, items_of, run
from omnisift.errors import CompressorError, EngineLost, UsageError
from omnisift.media.reader import read


def test_bad_clips_stay_in_the_denominator(tmp_path: Path) -> None:
    seen = []
    with Ledger(tmp_path / "a.jsonl", SETTINGS) as ledger:
        run(items(5), Question(), Fake(bad={1: "typed", 3: "untyped"}), ledger, seen.append)
        summary = ledger.summary
    assert seen == rows(tmp_path / "a.jsonl")
    assert seen[1]["error"] == {"type": "NotMedia", "message": "/001.mp4: no decoder knows this content"}
    assert seen[3]["error"]["type"] == "ZeroDivisionError"
    assert seen[3]["error"]["where"].startswith("fakes.py:")  # the cause is not hidden
    assert [row["question"] for row in seen] == [item.question for item in items(5)]
    assert summary.to_dict() | {"seconds": 0} == {
        "rows": 5, "done": 3, "failed": 2, "errors": {"NotMedia": 1, "ZeroDivisionError": 1}, "seconds": 0,
        "tokens": {"full": 3 * 246, "kept": 3 * 63}, "retained_ratio": round(63 / 246, 6),
    }  # fmt: skip
    assert list(summary.first) == ["001.mp4", "003.mp4"]
    with Ledger(tmp_path / "a.jsonl", SETTINGS) as again:
        assert again.summary == summary


def test_several_at_once_are_the_same_rows(tmp_path: Path) -> None:
    bad = {1: "typed", 3: "untyped"}
    for name, together in (("a", 1), ("b", 3)):
        with Ledger(tmp_path / f"{name}.jsonl", SETTINGS) as ledger:
            run(items(7), Question(), FakeOfMany(bad=bad), ledger, together=together)
    timeless = [[row | {"seconds": 0} for row in rows(tmp_path / f"{name}.jsonl")] for name in "ab"]
    assert timeless[0] == timeless[1]


def test_an_engine_that_breaks_over_several_leaves_each_to_be_done_alone(tmp_path: Path) -> None:
    """Also where not a single row was written: the next run must not go the same way."""
    out, engine = tmp_path / "a.jsonl", FakeOfMany(bad={1: "lost"})
    with pytest.raises(EngineLost), Ledger(out, SETTINGS) as ledger:
        run(items(6), Question(), engine, ledger, together=3)
    assert not out.exists()
    with pytest.raises(EngineLost), Ledger(out, SETTINGS) as ledger:
        run(items(6), Question(), engine, ledger, together=3)
    assert [row.get("error", {}).get("type") for row in rows(out)] == [None, "EngineLost"]
    with Ledger(out, SETTINGS) as ledger:
        run(items(6), Question(), engine, ledger, together=3)
    assert [row.get("error", {}).get("type") for row in rows(out)] == [None, "EngineLost"] + [None] * 4


def test_a_breakdown_over_one_clip_is_no_death(tmp_path: Path) -> None:
    """It had a word to say, in a row: however often that is tried again, the clip is not given up."""
    out = tmp_path / "a.jsonl"
    for _ in range(4):
        with pytest.raises(EngineLost), Ledger(out, SETTINGS, retry_errors=True) as ledger:
            run(items(2), Question(), Fake(bad={1: "lost"}), ledger)
        assert rows(out)[1]["error"]["type"] == "EngineLost"
    with Ledger(out, SETTINGS, retry_errors=True) as ledger:
        run(items(2), Question(), Fake(), ledger)
    assert all("answer" in row for row in rows(out))


def test_an_engine_that_was_lost_before_any_clip_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(EngineLost), Ledger(tmp_path / "a.jsonl", SETTINGS):
        raise EngineLost("no worker came back")
    assert list(tmp_path.iterdir()) == []


def test_an_engine_of_one_is_not_given_several(tmp_path: Path) -> None:
    with Ledger(tmp_path / "a.jsonl", SETTINGS) as ledger, pytest.raises(UsageError, match="one clip at a time"):
        run(items(3), Question(), Fake(), ledger, together=2)


def test_a_broken_engine_ends_the_run_behind_its_row(tmp_path: Path) -> None:
    engine = Fake(bad={1: "lost"})
    with Ledger(tmp_path / "a.jsonl", SETTINGS) as ledger, pytest.raises(EngineLost):
        run(items(3), Question(), engine, ledger)
    assert [row.get("error", {}).get("type") for row in rows(tmp_path / "a.jsonl")] == [None, "EngineLost"]
    with Ledger(tmp_path / "a.jsonl", SETTINGS) as ledger:
        run(items(3), Question(), engine, ledger)
    assert engine.asked == ["000.mp4", "001.mp4", "002.mp4"]


def test_stop_is_asked_between_rows(tmp_path: Path) -> None:
    engine = Fake()
    with Ledger(tmp_path / "a.jsonl", SETTINGS) as ledger:
        run(items(9), Question(), engine, ledger, stop=lambda: len(engine.asked) == 4)
    assert len(rows(tmp_path / "a.jsonl")) == 4


def test_rules_are_asked_of_a_clip_that_is_read_once(clip: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "list.txt").write_text(str(clip))
    reads = []
    monkeypatch.setattr("omnisift.pipeline.prompt.read", lambda *a, **k: reads.append(a) or read(*a, **k))
    engine = ModelSettings().load()
    task = Moderate({"one": "Is a beep heard?", "two": "How many shapes are there?"})
    with Ledger(tmp_path / "a.jsonl", SETTINGS) as ledger:
        run(items_of(tmp_path / "list.txt"), task, engine, ledger)
    (row,) = rows(tmp_path / "a.jsonl")
    assert len(reads) == 1
    assert row["answers"] == {
        rule: engine.pipeline.ask(clip, question).text for rule, question in task.rules.items()
    }  # the same as two questions of their own
    assert row["unclear"] == ["two"]
    assert row["tokens"]["video"] == 2 * 96
    assert row["seconds"]["read"] > 0
    stages = ("read", "process", "encode", "compress", "prefill", "decode")
    assert row["seconds"]["total"] == pytest.approx(sum(row["seconds"][stage] for stage in stages), abs=1e-4)
    assert row["source"]["seconds"] == 6.0


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"fps": 0.0}, UsageError),
        ({"max_frames": 1}, UsageError),
        ({"max_pixels": 1}, UsageError),
        ({"sampling": "magic"}, UsageError),
        ({"compressor": "magic"}, CompressorError),
        ({"device": "toaster"}, UsageError),
    ],
)
def test_what_no_clip_could_mend_is_refused_before_the_first(wrong: dict, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        ModelSettings(**wrong).load()


def test_settings_of_the_model_name_the_kind_of_device_alone() -> None:
    assert ModelSettings(device="cuda:1").to_dict()["device"] == "cuda"
    assert ModelSettings().to_dict() != ModelSettings(retain=0.5).to_dict()
