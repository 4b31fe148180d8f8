"""`omnisift run` as a user and as a script meet it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.batch.fakes import Fake, rows

from omnisift.batch import ModelSettings
from omnisift.cli import main
from omnisift.pipeline import Answer, Pipeline, clip_windows, windowed_clip
from omnisift.world.dataset import write_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips of nano's world, one file that is none, one link to nowhere."""
    folder = tmp_path_factory.mktemp("run") / "clips"
    write_dataset(folder, 3, 0, 2, lambda: None)
    (folder / "bad.mp4").write_bytes(b"not a video")
    (folder / "gone.mp4").symlink_to("nowhere")
    return folder


@pytest.fixture
def omnisift(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["omnisift", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        out = capfd.readouterr()
        return int(stop.value.code or 0), out.out, out.err

    return call


def test_captions_of_a_folder(omnisift, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    code, output, _ = omnisift("run", folder, "--task", "caption", "--out", out, "--limit", 3)
    assert code == 0
    assert "3 rows, 2 answers, 1 failed" in output
    assert "failed: bad.mp4" in output
    code, output, _ = omnisift("run", folder, "--task", "caption", "--out", out, "--json")
    summary = json.loads(output)
    assert code == 0
    assert (summary["wanted"], summary["missing"], summary["done"], summary["failed"]) == (5, 0, 3, 2)
    assert summary["errors"] == {"NotMedia": 1, "NotFound": 1}
    assert summary["retained_ratio"] == pytest.approx(63 / 246, abs=1e-6)
    result = {row["id"]: row for row in rows(out)}
    assert result["clip-000000.mp4"]["answer"].startswith("at 1 yellow cross with hiss")
    assert result["clip-000000.mp4"]["tokens"]["generated"] > 10


def test_subtitles_are_counted_and_are_settings(omnisift, folder: Path, tmp_path: Path) -> None:
    clips, out = tmp_path / "clips", tmp_path / "a.jsonl"
    clips.mkdir()
    for name in ("clip-000000.mp4", "clip-000001.mp4"):
        shutil.copy(folder / name, clips / name)
    (clips / "clip-000000.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\na red circle and a beep\n")
    command = ("run", clips, "--task", "qa", "--question", "Is a beep heard?", "--out", out, "--text", "subtitles")
    code, output, _ = omnisift(*command, "--retain-text", "0.5", "--limit", 1)
    assert code == 0
    assert "video, audio and text tokens: 252, kept 66 (26.2 %)" in output
    assert omnisift(*command, "--retain-text", "0.5")[0] == 0, "it resumes"
    with_text, without = rows(out)
    assert (with_text["tokens"]["text"], with_text["tokens"]["text_kept"]) == (6, 3)
    assert "text" not in without["tokens"]
    assert without["notices"][0].startswith("no subtitles: ")
    code, _, err = omnisift(*command)
    assert code == 2
    assert "retain_text 0.5 (now None)" in err
    totals = json.loads(omnisift(*command, "--retain-text", "0.5", "--json")[1])
    assert totals["tokens"]["full"] == 252 + 246
    code, _, err = omnisift(*command[:-2], "--engine", "vllm", "--text", "subtitles")
    assert (code, err.count("\n")) == (2, 1)
    assert "text is for Transformers" in err


def test_a_number_of_tokens(omnisift, folder: Path, tmp_path: Path) -> None:
    """Also below the number of a clip's frames."""
    for tokens in (60, 5):
        out = tmp_path / f"{tokens}.jsonl"
        omnisift("run", folder, "--task", "caption", "--out", out, "--tokens", tokens)
        written = rows(out)
        assert len(written) == 5
        assert {row["tokens"]["video_kept"] + row["tokens"]["audio_kept"] for row in written if "tokens" in row} == {
            tokens
        }
        assert not any("BudgetError" in json.dumps(row.get("error")) for row in written)


def test_the_default_method_depends_on_the_length_of_a_clip_as_elsewhere(
    omnisift, folder: Path, tmp_path: Path, monkeypatch
) -> None:
    """A run is resumed by the name of the method, which is the same for all clips."""
    labels, ask = list[str](), Pipeline.ask

    def noted(pipeline: Pipeline, *args: Any, **options: Any) -> Answer:
        answer = ask(pipeline, *args, **options)
        labels.append(answer.report.compressor)
        return answer

    monkeypatch.setattr(Pipeline, "ask", noted)
    command = ("run", folder / "clip-000000.mp4", "--task", "caption", "--json")
    for images, label in ((4, "resift-causal"), (256, "resift")):
        monkeypatch.setattr(windowed_clip, "LONG_IMAGES", images)
        monkeypatch.setattr(clip_windows, "WINDOW_STEPS", 2)
        code, output, _ = omnisift(*command, "--out", tmp_path / f"{images}.jsonl")
        summary = json.loads(output)
        assert (code, summary["compressor"], summary["compressor_reason"]) == (0, "resift", "default")
        assert labels.pop() == label
    assert omnisift(*command, "--out", tmp_path / "4.jsonl", "--compressor", "resift")[0] == 0


def test_a_finished_run_loads_no_model_and_strict_tells_failures(omnisift, folder: Path, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(ModelSettings, "load", lambda self: Fake2())
    command = ("run", folder, "--task", "caption", "--out", tmp_path / "a.jsonl")
    assert omnisift(*command)[0] == 0
    monkeypatch.setattr(ModelSettings, "load", lambda self: pytest.fail("loaded"))
    assert omnisift(*command)[0] == 0
    before = (tmp_path / "a.jsonl").read_bytes()
    monkeypatch.setattr(ModelSettings, "load", lambda self: Fake2(fails=True))
    code, _, _ = omnisift("run", folder, "--task", "caption", "--out", tmp_path / "b.jsonl", "--strict")
    assert code == 1
    assert len(rows(tmp_path / "b.jsonl")) == 5
    assert (tmp_path / "a.jsonl").read_bytes() == before


def test_media_with_other_suffixes_are_named(omnisift, folder: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(ModelSettings, "load", lambda self: Fake2())
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").symlink_to(folder / "clip-000000.mp4")
    (tmp_path / "clips" / "b.bin").write_bytes((folder / "clip-000001.mp4").read_bytes())
    (tmp_path / "clips" / "c.ape").write_bytes(b"MAC ")
    command = ("run", tmp_path / "clips", "--task", "caption", "--out", tmp_path / "a.jsonl")
    code, _, err = omnisift(*command)
    assert code == 0
    assert "left out: files that look like media but have other suffixes (2): b.bin, c.ape; name them in a list" in err
    code, output, err = omnisift(*command, "--json")
    assert (code, json.loads(output)["left_out"], "left out" in err) == (0, 2, False)


class Fake2(Fake):
    """Takes any name of a clip."""

    def __init__(self, fails: bool = False, at: int = -1, how: str = "") -> None:
        super().__init__()
        self.fails, self.at, self.how = fails, at, how

    def _misbehave(self, clip: Path) -> None:
        if self.fails:
            raise ValueError("always")
        if len(self.asked) == self.at + 1:
            self.bad = {0: self.how}
            super()._misbehave(Path("0.mp4"))


@pytest.mark.parametrize(("how", "code", "kept"), [("signal", 143, 2), ("signals", 130, 1)])
def test_a_signal_finishes_the_clip_and_a_second_drops_it(
    omnisift, folder: Path, tmp_path: Path, monkeypatch, how: str, code: int, kept: int
) -> None:
    monkeypatch.setattr(ModelSettings, "load", lambda self: Fake2(at=1, how=how))
    command = ("run", folder, "--task", "caption", "--out", tmp_path / "a.jsonl")
    result, _, output = omnisift(*command)
    assert result == code
    assert "after the current clip" in output
    assert ("run the same command to resume" in output) == (how == "signal")
    assert len(rows(tmp_path / "a.jsonl")) == kept
    monkeypatch.setattr(ModelSettings, "load", lambda self: Fake2())
    assert omnisift(*command)[0] == 0
    assert len({row["id"] for row in rows(tmp_path / "a.jsonl")}) == len(rows(tmp_path / "a.jsonl")) == 5


def test_a_signal_before_the_first_clip_ends_at_once(omnisift, folder: Path, tmp_path: Path, monkeypatch) -> None:
    import os
    import signal

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ModelSettings, "load", lambda self: os.kill(os.getpid(), signal.SIGTERM))
    assert omnisift("run", folder, "--task", "caption", "--out", tmp_path / "a.jsonl")[0] == 143
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_questions_of_a_data_set(omnisift, folder: Path, tmp_path: Path) -> None:
    listed = folder / "list.txt"
    listed.write_text("".join(f"clip-00000{number}.mp4\n" for number in range(3)))
    command = ("run", listed, "--task", "qa", "--questions", folder / "metadata.jsonl", "--out", tmp_path / "a.jsonl")
    code, output, _ = omnisift(*command, "--json", "--compressor", "none")
    assert code == 0
    assert json.loads(output)["done"] == 6
    truth = [pair for line in (folder / "metadata.jsonl").read_text().splitlines() for pair in json.loads(line)["qa"]]
    result = [(row["question"], row["answer"]) for row in rows(tmp_path / "a.jsonl")]
    assert [question for question, _ in result] == [pair["question"] for pair in truth]
    assert sum(answer == pair["answer"] for (_, answer), pair in zip(result, truth, strict=True)) >= 5


@pytest.mark.parametrize(
    "arguments",
    [
        ["--task", "summarise"],
        ["--task", "qa"],
        ["--task", "qa", "--question", "a?", "--questions", "b.jsonl"],
        ["--task", "caption", "--question", "a?"],
        ["--task", "moderate"],
        ["--task", "moderate", "--rules", "missing.txt"],
        ["--task", "caption", "--rules", "rules.txt"],
        ["--task", "caption", "--fps", "-1"],
        ["--task", "caption", "--limit", "0"],
        ["--task", "caption", "--retain", "much"],
        ["--task", "qa", "--question", " "],
        ["--task", "caption", "--retain", "0"],
        ["--task", "caption", "--model", "no/such"],
        ["--task", "caption", "--out", "{tmp}/a.csv"],
        ["--task", "caption", "--out", "{tmp}/none/a.jsonl"],
        ["--task", "caption", "--batch-size", "2"],
        ["--task", "caption", "--together", "2"],
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(omnisift, folder: Path, tmp_path: Path, arguments: list[str]) -> None:
    code, out, err = omnisift(
        "run", folder, "--out", tmp_path / "a.jsonl", *(text.format(tmp=tmp_path) for text in arguments)
    )
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.split(":")[0] in ("error (UsageError)", "error (BudgetError)", "error (CheckpointError)")
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_into_the_same_file_waits_for_nobody(omnisift, folder: Path, tmp_path: Path) -> None:
    from omnisift.batch import ResultsFile

    with ResultsFile(tmp_path / "a.jsonl", {}):
        code, _, err = omnisift("run", folder, "--task", "caption", "--out", tmp_path / "a.jsonl")
    assert code == 2
    assert "another process is writing" in err
