"""Task files, the command that lmms-eval is called by, and the commands up to where lmms-eval begins."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.evaluation.public import metadata_samples as samples
from tests.evaluation.public.runs import caption_rows, choice_rows, write_run

from omnisift.cli import main
from omnisift.errors import BudgetError, UsageError
from omnisift.evaluation.public import running
from omnisift.evaluation.public.lmms_hooks import (
    MISSED,
    SCORE,
    grade_choice,
    grade_description,
    mean,
    messages,
    prepared,
    write_task,
)
from omnisift.evaluation.public.running import EvalSettings

Omnisift = Callable[..., tuple[int, str, str]]


class Loader(yaml.SafeLoader):
    """Takes the harness' tag for a function, and imports what it names."""


def _function(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    module, _, name = str(node.value).rpartition(".")
    return getattr(importlib.import_module(module), name)


Loader.add_constructor("!function", _function)


def load(path: Path) -> dict[str, Any]:
    task: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader)
    return yaml.load(Path(task.pop("include")).read_text(encoding="utf-8"), Loader) | task


def test_a_task_names_rows_functions_and_groups(tmp_path: Path) -> None:
    path = write_task(tmp_path / "tasks", choice_rows(4))
    task = load(path)
    assert task["task"] == path.stem == "omnisift_worldsense"
    assert [metric["metric"] for metric in task["metric_list"]] == [SCORE, "domain: G", "domain: M"]
    assert (task["cluster_key"], task["generation_kwargs"]["do_sample"]) == ("video", False)
    rows = (path.parent / task["dataset_kwargs"]["data_files"]["test"]).read_text(encoding="utf-8").splitlines()
    document = json.loads(rows[1])
    clip, told = task["doc_to_messages"](document)[0]["content"]
    assert (clip, told["text"]) == ({"type": "video", "url": "v0.mp4"}, document["prompt"])
    graded = task["process_results"](document, ["(B)"])
    assert graded.keys() == {SCORE, "domain: M"}
    assert task["metric_list"][0]["aggregation"]([graded[SCORE], {"score": 0}]) == 0.5


def test_descriptions_have_their_own(tmp_path: Path) -> None:
    task = load(write_task(tmp_path, caption_rows(2)))
    assert [(metric["metric"], metric["higher_is_better"]) for metric in task["metric_list"]] == [(MISSED, False)]
    assert prepared(tmp_path) == ["video_salmonn2"]


def test_the_raw_answer_is_kept_and_read_by_every_rule() -> None:
    (row, *_) = choice_rows(1)
    item = grade_choice({**row.to_dict(), "rule": "released"}, ["(B) I think"])[SCORE]
    assert item["prediction"] == "(B) I think"
    assert item["chosen"] == {"videomme": "B", "official": "B", "released": "I", "strict": ""}
    assert (item["score"], item["groups"], item["video"]) == (0, {"domain": "G"}, "v0")


def test_captions_are_kept_with_their_events() -> None:
    item = grade_description(caption_rows(1)[0].to_dict(), ["A bell rings."])[MISSED]
    assert (item["prediction"], item["events"][1], item["score"]) == ("A bell rings.", "a bell rings", 0.5)
    assert mean([item]) == 0.5
    assert messages({"path": "a", "prompt": "b"})[0]["role"] == "user"


def test_wordings_and_rules_are_checked_before_anything_is_written(tmp_path: Path) -> None:
    for wrong in ({"wording": "mine"}, {"rule": "mine"}):
        with pytest.raises(UsageError, match="'mine'"):
            write_task(tmp_path / "tasks", choice_rows(2), **wrong)
    assert not (tmp_path / "tasks").exists()


def test_model_arguments_say_what_differs_from_nothing() -> None:
    assert "tokens=64" in EvalSettings(tokens=64).arguments(Path("out")).split(",")
    text = EvalSettings(retain=0.35, compressor="evs:mode=frame").arguments(Path("out"))
    assert text.startswith("pretrained=nano,records=out,compressor=evs:mode=frame,retain=0.35,seed=0,fps=2.0")
    assert "None" not in text
    with pytest.raises(UsageError, match="contains a comma"):
        EvalSettings(compressor="evs:mode=frame,x=1").arguments(Path("out"))
    with pytest.raises(BudgetError):
        EvalSettings(retain=1.5).check()
    assert EvalSettings(compressor="none", retain=0.5).keeps_all


def fake(monkeypatch: pytest.MonkeyPatch, script: str) -> list[list[str]]:
    """Let a few lines of Python stand for lmms-eval; returns the commands that would have been called."""
    called: list[list[str]] = []
    real = running._command

    def command(*arguments: Any) -> list[str]:
        called.append(real(*arguments))
        return [sys.executable, "-c", script]

    monkeypatch.setattr(running, "find_spec", lambda _name: object())
    monkeypatch.setattr(running, "_command", command)
    return called


def test_what_lmms_eval_swallows_is_an_error_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "print('Traceback'); print('omnisift.errors.CompressorError: no compressor named x; known: y'); print('ok')"
    )
    called = fake(monkeypatch, script)
    with pytest.raises(UsageError, match=r"0 of 4 questions: omnisift\.errors\.CompressorError: no compressor"):
        running.run(tmp_path / "out", choice_rows(4), EvalSettings(bad_clip="wrong", processes=2))
    assert not (tmp_path / "out" / "run.json").exists()
    (command,) = called
    assert command[1:3] == ["-m", "accelerate.commands.launch"]
    assert command[command.index("--num_processes") + 1] == "2"
    assert "--cpu" not in command  # accelerate would start one process


def test_missing_videos_are_found_before_the_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = fake(monkeypatch, "")
    with pytest.raises(UsageError, match=r"2 of 2 videos are missing, first v0\.mp4"):
        running.run(tmp_path / "out", choice_rows(4), EvalSettings())
    assert called == []
    assert not (tmp_path / "out").exists()


# --- the commands ----------------------------------------------------------------------------------------------------


@pytest.fixture
def omnisift(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Omnisift:
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["omnisift", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        out = capsys.readouterr()
        return int(stop.value.code or 0), out.out, out.err

    return call


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    items = [samples.worldsense("seven", "Which colour?", "B")]
    (folder / "worldsense.jsonl").write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
    return folder


def test_prepare_then_tasks_path(omnisift: Omnisift, videos: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OMNISIFT_TASKS", str(tmp_path / "mine"))
    code, _, err = omnisift("tasks-path")
    assert (code, err.startswith("error (UsageError): no task is prepared")) == (2, True)
    code, out, _ = omnisift("eval", "prepare", "--benchmark", "worldsense", "--video-root", videos)
    assert (code, out) == (0, f"omnisift_worldsense: 1 questions in {tmp_path / 'mine'}\n")
    assert omnisift("tasks-path")[1] == f"{tmp_path / 'mine'}\n"


def test_report_is_printed_or_written(omnisift: Omnisift, tmp_path: Path) -> None:
    full = write_run(tmp_path / "full", choice_rows(4), ["B"] * 4, "none")
    ours = write_run(tmp_path / "ours", choice_rows(4), ["B", "B", "B", "A"])
    code, out, _ = omnisift("eval", "report", full, ours, "--published", "7b", "--rule", "strict")
    assert code == 0
    assert "| WorldSense | nano | omnisift | 0.25 | 25.0 |" in out
    assert omnisift("eval", "report", full, ours, "--out", tmp_path / "table")[0] == 0
    assert {path.suffix for path in tmp_path.glob("table.*")} == {".md", ".csv", ".svg"}


def test_judge_by_words(omnisift: Omnisift, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", caption_rows(2), ["A bell rings."] * 2)
    code, out, _ = omnisift("eval", "judge", run, "--words")
    assert (code, out) == (0, "missed 50.0 %, hallucinated 0.0 %, total 50.0 %\n")


@pytest.mark.skipif(find_spec("lmms_eval") is not None, reason="lmms-eval is here")
def test_without_lmms_eval_one_line_says_how_to_get_it(omnisift: Omnisift, videos: Path, tmp_path: Path) -> None:
    code, out, err = omnisift(
        "eval", "--benchmark", "worldsense", "--video-root", videos, "--out", tmp_path / "out", "--bad-clip", "wrong"
    )
    assert (code, out) == (2, "")
    assert "nox -s eval --install-only" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--out", "{file}"], "is a file"),
        (["--out", "{videos}"], "--force"),
        (["--out", "{videos}", "--force"], "delete it yourself"),
        (["--retain", "2"], "BudgetError"),
        (["--wording", "mine"], "no prompts named 'mine'"),
        (["--rule", "mine"], "no answer rule named 'mine'"),
        (["--bad-clip", "stop"], "1 of 1 videos are missing"),
        (["--compressor", "evs:a=1,b=2"], "contains a comma"),
    ],
)
def test_a_run_is_refused_before_anything_is_deleted(
    omnisift: Omnisift, videos: Path, more: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = fake(monkeypatch, "")
    file = videos / "worldsense.jsonl"
    given = ["--benchmark", "worldsense", "--video-root", str(videos)]
    given += [] if "--bad-clip" in more else ["--bad-clip", "wrong"]
    code, out, err = omnisift("eval", *given, *[word.format(videos=videos, file=file) for word in more])
    assert (code, out, err.count("\n"), called) == (2, "", 1, [])
    assert says in err
    assert file.is_file()


def test_force_replaces_a_result_only_once_all_is_well(
    omnisift: Omnisift, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, "print('lmms_eval.SomeError: no')")
    out = write_run(tmp_path / "out", choice_rows(2), ["B", "B"])
    (out / "harness.log").write_text("")
    given = ("eval", "--benchmark", "worldsense", "--video-root", videos, "--out", out, "--force")
    assert "videos are missing" in omnisift(*given)[2]
    assert (out / "run.json").is_file()
    assert "answered 0 of 1 questions: lmms_eval.SomeError: no" in omnisift(*given, "--bad-clip", "wrong")[2]
    assert not (out / "run.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["eval"], "give --benchmark (worldsense, dailyomni"),
        (["eval", "--benchmark", "mine", "--video-root", "{videos}"], "named 'mine'"),
        (
            ["eval", "--benchmark", "mine", "--video-root", "{videos}", "--metadata", "{file}"],
            "named 'mine'",
        ),
        (["eval", "--benchmark", "worldsense", "--video-root", "none"], "folder none does not exist"),
        (["eval", "--benchmark", "dailyomni", "--video-root", "{videos}"], "no metadata in"),
        (["eval", "report", "{videos}"], "no finished run"),
        (["eval", "report", "{videos}", "--published", "9b"], "got '9b'"),
        (["eval", "report"], "Missing argument"),
        (["eval", "judge", "{videos}"], "--address and --model together, or --words"),
        (["eval", "judge", "{videos}", "--address", "http://x/v1"], "--address and --model together"),
        (["eval", "prepare", "--benchmark", "worldsense", "--video-root", "{videos}", "--rule", "x"], "no answer rule"),
    ],
)
def test_mistakes_are_one_line(omnisift: Omnisift, videos: Path, arguments: list[str], says: str) -> None:
    file = videos / "worldsense.jsonl"
    code, out, err = omnisift(*[argument.format(videos=videos, file=file) for argument in arguments])
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert file.is_file()
