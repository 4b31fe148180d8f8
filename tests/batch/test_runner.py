"""The loop: a bad clip is a row, a lost engine ends the run after its row, a stop takes effect between rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.batch.fakes import SETTINGS, Fake, FakeBatchEngine, items, rows

from omnisift.batch import ModelSettings, Moderate, QuestionAnswering, ResultsFile, items_of, run
from omnisift.errors import CompressorError, EngineLost, UsageError
from omnisift.pipeline import windowed_clip
from omnisift.pipeline.devices import resolve_device


def test_bad_clips_stay_in_the_denominator(tmp_path: Path) -> None:
    written = []
    with ResultsFile(tmp_path / "a.jsonl", SETTINGS) as results:
        run(items(5), QuestionAnswering(), Fake(bad={1: "typed", 3: "untyped"}), results, written.append)
        summary = results.summary
    assert written == rows(tmp_path / "a.jsonl")
    assert written[1]["error"] == {"type": "NotMedia", "message": "/001.mp4: no decoder knows this content"}
    assert written[3]["error"]["type"] == "ZeroDivisionError"
    assert written[3]["error"]["where"].startswith("fakes.py:")  # the cause is not hidden
    assert [row["question"] for row in written] == [item.question for item in items(5)]
    assert summary.to_dict() | {"seconds": 0} == {
        "rows": 5, "done": 3, "failed": 2, "errors": {"NotMedia": 1, "ZeroDivisionError": 1}, "seconds": 0,
        "tokens": {"full": 3 * 246, "kept": 3 * 63}, "retained_ratio": round(63 / 246, 6),
    }  # fmt: skip
    assert list(summary.first_errors) == ["001.mp4", "003.mp4"]
    with ResultsFile(tmp_path / "a.jsonl", SETTINGS) as again:
        assert again.summary == summary


def test_several_at_once_are_the_same_rows(tmp_path: Path) -> None:
    bad = {1: "typed", 3: "untyped"}
    for name, batch_size in (("a", 1), ("b", 3)):
        with ResultsFile(tmp_path / f"{name}.jsonl", SETTINGS) as results:
            run(items(7), QuestionAnswering(), FakeBatchEngine(bad=bad), results, batch_size=batch_size)
    timeless = [[row | {"seconds": 0} for row in rows(tmp_path / f"{name}.jsonl")] for name in "ab"]
    assert timeless[0] == timeless[1]


def test_after_an_engine_died_on_several_clips_each_is_done_alone(tmp_path: Path) -> None:
    """Even if no row was written, the next run does not repeat the batch."""
    out, engine = tmp_path / "a.jsonl", FakeBatchEngine(bad={1: "lost"})
    with pytest.raises(EngineLost), ResultsFile(out, SETTINGS) as results:
        run(items(6), QuestionAnswering(), engine, results, batch_size=3)
    assert not out.exists()
    with pytest.raises(EngineLost), ResultsFile(out, SETTINGS) as results:
        run(items(6), QuestionAnswering(), engine, results, batch_size=3)
    assert [row.get("error", {}).get("type") for row in rows(out)] == [None, "EngineLost"]
    with ResultsFile(out, SETTINGS) as results:
        run(items(6), QuestionAnswering(), engine, results, batch_size=3)
    assert [row.get("error", {}).get("type") for row in rows(out)] == [None, "EngineLost"] + [None] * 4


def test_an_engine_error_on_one_clip_is_not_a_crash(tmp_path: Path) -> None:
    """The process wrote a row, so the clip is tried as often as the user retries errors."""
    out = tmp_path / "a.jsonl"
    for _ in range(4):
        with pytest.raises(EngineLost), ResultsFile(out, SETTINGS, retry_errors=True) as results:
            run(items(2), QuestionAnswering(), Fake(bad={1: "lost"}), results)
        assert rows(out)[1]["error"]["type"] == "EngineLost"
    with ResultsFile(out, SETTINGS, retry_errors=True) as results:
        run(items(2), QuestionAnswering(), Fake(), results)
    assert all("answer" in row for row in rows(out))


def test_an_engine_that_was_lost_before_any_clip_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(EngineLost), ResultsFile(tmp_path / "a.jsonl", SETTINGS):
        raise EngineLost("no worker came back")
    assert list(tmp_path.iterdir()) == []


def test_an_engine_for_single_clips_refuses_batches(tmp_path: Path) -> None:
    with ResultsFile(tmp_path / "a.jsonl", SETTINGS) as results, pytest.raises(UsageError, match="one clip at a time"):
        run(items(3), QuestionAnswering(), Fake(), results, batch_size=2)


def test_a_lost_engine_ends_the_run_after_its_row(tmp_path: Path) -> None:
    engine = Fake(bad={1: "lost"})
    with ResultsFile(tmp_path / "a.jsonl", SETTINGS) as results, pytest.raises(EngineLost):
        run(items(3), QuestionAnswering(), engine, results)
    assert [row.get("error", {}).get("type") for row in rows(tmp_path / "a.jsonl")] == [None, "EngineLost"]
    with ResultsFile(tmp_path / "a.jsonl", SETTINGS) as results:
        run(items(3), QuestionAnswering(), engine, results)
    assert engine.asked == ["000.mp4", "001.mp4", "002.mp4"]


def test_a_stop_takes_effect_between_rows(tmp_path: Path) -> None:
    engine = Fake()
    with ResultsFile(tmp_path / "a.jsonl", SETTINGS) as results:
        run(items(9), QuestionAnswering(), engine, results, should_stop=lambda: len(engine.asked) == 4)
    assert len(rows(tmp_path / "a.jsonl")) == 4


def test_rules_are_asked_of_a_clip_that_is_read_once(clip: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "list.txt").write_text(str(clip))
    reads = []
    read = windowed_clip.read_or_open
    monkeypatch.setattr(windowed_clip, "read_or_open", lambda *a, **k: reads.append(a) or read(*a, **k))
    engine = ModelSettings().load()
    task = Moderate({"one": "Is a beep heard?", "two": "How many shapes are there?"})
    with ResultsFile(tmp_path / "a.jsonl", SETTINGS) as results:
        run(items_of(tmp_path / "list.txt"), task, engine, results)
    (row,) = rows(tmp_path / "a.jsonl")
    assert len(reads) == 1
    assert row["answers"] == {
        rule: engine.pipeline.ask(clip, question).text for rule, question in task.rules.items()
    }  # the same as two separate questions
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
def test_wrong_settings_are_refused_before_the_first_clip(wrong: dict, kind: type[Exception]) -> None:
    (name,) = wrong
    with pytest.raises(kind, match=name):
        ModelSettings(**wrong).load()


def test_settings_hold_only_the_type_of_the_device() -> None:
    assert ModelSettings(device="cuda:1").to_dict()["device"] == "cuda"
    assert ModelSettings(device="auto").to_dict()["device"] == resolve_device().type
    assert ModelSettings().to_dict() != ModelSettings(retain=0.5).to_dict()
    assert ModelSettings(tokens=64).to_dict() == {**ModelSettings().to_dict(), "tokens": 64}
    assert ModelSettings(compress_audio=True).to_dict()["compress_audio"] is True
    assert not {"tokens", "compress_audio"} & set(ModelSettings().to_dict()), "runs of earlier versions go on"
    with pytest.raises(UsageError, match="compress_audio is for Transformers; vLLM keeps audio"):
        ModelSettings(engine="vllm", compress_audio=True).check()


def test_model_settings_say_which_engine_a_flag_is_for() -> None:
    with pytest.raises(UsageError, match="attn_implementation is for Transformers"):
        ModelSettings(engine="vllm", attn_implementation="eager").check()
    with pytest.raises(UsageError, match="'--dtype' is a flag for vLLM"):
        ModelSettings(vllm_args=("--dtype", "half")).check()
