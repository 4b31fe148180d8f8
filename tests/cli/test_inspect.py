"""`omnisift inspect` as a user and as a script meet it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from omnisift.cli import main
from omnisift.inspector import figure


def test_page_and_figures(omnisift, clip: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"report.{kind}" for kind in ("html", "png", "svg")]
    options = ("-o", str(files[0]), "--png", str(files[1]), "--svg", str(files[2]))
    options += ("--compare", "resift", "--compare", "omnisift", "--compare", "random")
    code, out, _ = omnisift("inspect", str(clip), *options)
    assert code == 0
    for word in ("all tokens", "resift (default; ", "omnisift+time (25", "random", "evidence", *map(str, files)):
        assert word in out
    assert out.count("resift") == 1, "the default method was named, too"
    assert "resift (default)" in files[0].read_text(encoding="utf-8")
    assert sorted(tmp_path.iterdir()) == sorted(files)


@pytest.mark.parametrize("spelling", [[], ["--question"]])
def test_json_is_the_trace_and_nothing_else(omnisift, clip: Path, spelling: list[str]) -> None:
    question = "Which colour appears last?"
    code, out, _ = omnisift("inspect", str(clip), "--json", *spelling, question, "--retain", "0.5")
    trace = json.loads(out)
    assert code == 0
    assert (trace["schema"], trace["question"]) == ("omnisift.trace", question)
    assert [method["name"] for method in trace["methods"]] == ["none", "resift"]
    assert [trace["methods"][1][key] for key in ("compressor", "compressor_reason")] == ["resift", "default"]
    assert trace["methods"][1]["retain"] == "0.5"
    assert trace["evidence"]["type"] == "order"


def test_subtitles(omnisift, clip: Path, tmp_path: Path) -> None:
    talk, page = tmp_path / "talk.mp4", tmp_path / "report.html"
    shutil.copy(clip, talk)
    (tmp_path / "talk.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\na red circle and a beep\n")
    command = ("inspect", talk, "--text", "subtitles", "--retain-text", "0.5", "--compare", "random")
    code, out, _ = omnisift(*command, "--json", "-o", page)
    trace = json.loads(out)
    assert code == 0
    assert "".join(trace["lines"][0]["pieces"]) == "a red circle and a beep"
    for method in trace["methods"][1:]:
        assert method["selection"]["text_kept"] == [3, 0, 0]
        assert method["retain"] == "0.25, text 0.5"
    assert "<s>" in page.read_text(encoding="utf-8")
    code, out, _ = omnisift("inspect", talk, "--json")
    assert json.loads(out)["lines"] == []
    code, _, err = omnisift("inspect", talk, "--json", "--retain-text", "0.5")
    assert (code, err.count("\n")) == (2, 1)


def test_a_number_of_tokens(omnisift, clip: Path) -> None:
    code, out, _ = omnisift("inspect", clip, "--json", "What?", "--tokens", "64", "--compare", "random")
    assert code == 0
    for method in json.loads(out)["methods"][1:]:
        assert method["retain"] == "64 tokens"
        assert sum(method["selection"]["kept"]) == 64
        assert "token_budget" not in method


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["{clip}"], "UsageError"),
        (["{clip}", "-o", "{tmp}/report.pdf"], "UsageError"),
        (["{clip}", "-o", "{tmp}/missing/report.html"], "UsageError"),
        (["{clip}", "-o", "{tmp}/there.html"], "UsageError"),
        (["{clip}", "--json", "--compressor", "none"], "UsageError"),
        (["{clip}", "--json", "--compare", "magic"], "CompressorError"),
        (["{clip}", "--json", "--question", " "], "UsageError"),
        (["{clip}", "a?", "--json", "--question", "b?"], "UsageError"),
        (["{clip}", "--json", "--retain", "2"], "BudgetError"),
        (["missing.mp4", "--json"], "NotFound"),
        (["{tmp}/there.html", "-o", "{tmp}/new.html"], "NotMedia"),
    ],
)
def test_errors_are_one_line(omnisift, clip: Path, tmp_path: Path, arguments: list[str], kind: str) -> None:
    (tmp_path / "there.html").write_text("mine")
    code, out, err = omnisift("inspect", *(text.format(clip=clip, tmp=tmp_path) for text in arguments))
    assert (code, out) == (2, "")
    assert err.startswith(f"error ({kind}): ")
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there.html"]
    assert (tmp_path / "there.html").read_text() == "mine"


def test_all_files_or_none(
    omnisift, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A figure that fails takes the page, which was written before it, with it."""

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(figure, "draw", fail)
    page, svg = tmp_path / "report.html", tmp_path / "report.svg"
    monkeypatch.setattr(sys, "argv", ["omnisift", "inspect", str(clip), "-o", str(page), "--svg", str(svg)])
    with pytest.raises(SystemExit) as exit_info:
        main()
    assert exit_info.value.code == 2
    assert "disk full" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_force_overwrites(omnisift, clip: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("old")
    assert omnisift("inspect", str(clip), "-o", str(page), "--force")[0] == 0
    assert page.read_text().startswith("<!doctype html>")
