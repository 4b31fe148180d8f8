"""`omnisift chat`, and `ask` with several questions: one model, one reading of the clip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omnisift.pipeline import Pipeline

QUESTIONS = ["What colour is the circle?", "Which sound comes first?"]


@pytest.fixture
def single(omnisift, clip: Path) -> list[str]:
    """The answers of one command for each question."""
    return [json.loads(omnisift("ask", str(clip), question, "--json")[1])["answer"] for question in QUESTIONS]


def test_several_questions_give_the_answers_of_single_ones(omnisift, clip: Path, single: list[str]) -> None:
    code, out, err = omnisift("ask", str(clip), *QUESTIONS, "--json")
    assert (code, err) == (0, "")
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["answer"] for answer in answers] == single
    assert answers[1]["seconds"]["process"] < answers[0]["seconds"]["process"]
    code, out, _ = omnisift("ask", str(clip), *QUESTIONS)
    assert code == 0
    assert all(text in out for text in (*QUESTIONS, *single, "63 of 246 video and audio tokens (25.6 %)"))


def test_chat_answers_each_line_of_standard_input(omnisift, clip: Path, single: list[str], monkeypatch) -> None:
    encoded = []
    encode = Pipeline.encode
    monkeypatch.setattr(Pipeline, "encode", lambda *given, **named: encoded.append(1) or encode(*given, **named))
    code, out, err = omnisift("chat", str(clip), typed=f"{QUESTIONS[0]}\n\n  {QUESTIONS[1]}\n")
    assert (code, err) == (0, "")
    assert out.splitlines() == single
    assert encoded == [1]


def test_chat_ends_at_once_without_questions_and_checks_the_clip_first(omnisift, clip: Path) -> None:
    assert omnisift("chat", str(clip)) == (0, "", "")
    code, out, err = omnisift("chat", "missing.mp4", typed="What?\n")
    assert (code, out) == (2, "")
    assert err.startswith("error (NotFound): missing.mp4")


def test_an_error_in_a_pipe_ends_the_chat(omnisift, clip: Path) -> None:
    code, out, err = omnisift("chat", str(clip), typed=f"<|VIDEO|>\n{QUESTIONS[0]}\n")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error (UsageError): ")


def test_nano_says_first_that_it_does_not_know_real_clips(omnisift, tmp_path: Path) -> None:
    from tests.cli.test_train_cli import _tone

    _tone(tmp_path / "a.wav")
    for arguments in (["What?"], QUESTIONS):
        out = omnisift("ask", str(tmp_path / "a.wav"), *arguments, "--max-new-tokens", "2")[1]
        assert out.startswith("note: nano ")
        assert out.count("note: nano ") == 1
        assert "audio only, 1.0 s" in out
    assert omnisift("chat", str(tmp_path / "a.wav"), typed="What?\n")[2].startswith("note: nano ")
