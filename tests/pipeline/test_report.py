"""Answers and reports in a terminal, in a notebook and as JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from omnisift import Answer, Budget, Report, load
from omnisift.pipeline.report import Seconds, Source, Tokens, cut_repetition

REPORT = Report(
    model="nano",
    compressor="omnisift+time",
    budget=Budget(retain=0.25),
    tokens=Tokens(96, 24, 150, 39, 300, 5),
    seconds=Seconds(0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.4),
    source=Source("a.mp4", 6.0, 12, 2.0, 112, 112, True, True, 6.0),
    peak_memory_bytes=None,
    notices=("<first>",),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red", "red"),
        ("no no no", "no no no"),
        ("red cross with rise", "red cross with rise"),
        ("red cross " * 4, "red cross …"),
        ("A red cross with rise" + " blue square with beep" * 9, "A red cross with rise blue square with beep …"),
        ("so it goes" + " on" * 40, "so it goes on …"),
        ("on and" * 1 + " on and" * 9 + " o", "on and …"),
        ("", ""),
    ],
)
def test_a_phrase_that_repeats_to_the_end_is_shown_once(text: str, expected: str) -> None:
    assert cut_repetition(text) == expected
    assert Answer(text, REPORT).text == text, "the text itself stays"


def test_short_representations() -> None:
    answer = Answer("red cross with rise " * 30, REPORT)
    text = "Answer('red cross with rise …', kept 63 of 246 video and audio tokens, 1.00 s, 1 notice)"
    assert repr(answer) == text
    assert repr(REPORT) == (
        "Report(nano, omnisift+time, retain 0.25: kept 24 of 96 video and 39 of 150 audio tokens, 1.00 s)"
    )
    assert "(nano, resift (default), retain" in repr(replace(REPORT, compressor="resift", compressor_reason="default"))
    assert len(repr(Answer("x" * 1000, replace(REPORT, notices=())))) < 200
    assert repr(load("nano", retain=0.25, device="cpu")) == (
        "Pipeline('nano' on cpu, float32; compressor resift, retain 0.25)"
    )
    assert repr(load("nano", compressor=None, device="cpu")) == "Pipeline('nano' on cpu, float32; compressor none)"
    assert "0x" not in repr(load("nano", compressor=None).host)
    assert len(repr(load("nano", compressor=None).host)) < 200


def test_notebooks_show_notices_first_and_escape_everything() -> None:
    for thing in (Answer("<b>red</b>", REPORT), REPORT):
        page = thing._repr_html_()
        assert page.startswith("<p><em>Note: &lt;first&gt;</em></p>")
        assert "<b>" not in page
    assert "&lt;b&gt;red&lt;/b&gt;" in Answer("<b>red</b>", REPORT)._repr_html_()
    assert "<p>" in load("nano", compressor=None)._repr_html_()


@pytest.mark.parametrize(
    ("budget", "numbers", "words"),
    [
        (Budget(retain=0.25), (0.25, None, None), "0.25"),
        (Budget(retain_video=0.23, retain_audio=0.5), (None, 0.23, 0.5), "video 0.23, audio 0.5"),
        (None, (1.0, None, None), "all"),
    ],
)
def test_budgets_are_numbers_in_json(budget: Budget | None, numbers: tuple[float | None, ...], words: str) -> None:
    report = replace(REPORT, budget=budget)
    row = json.loads(json.dumps(Answer("red", report).to_dict()))
    assert (row["retain"], row["retain_video"], row["retain_audio"]) == numbers
    assert report.retain == words
    assert list(row)[:4] == ["answer", "retained_ratio", "model", "compressor"]


def test_counts_of_lines_are_left_out_of_clips_without() -> None:
    """In the rows of both engines of `omnisift run`."""
    counts = {"video": 96, "video_kept": 24, "audio": 150, "audio_kept": 39, "prompt": 300, "generated": 5}
    assert Tokens(**counts).to_dict() == counts | {"prompt_kept": 117}
    assert Tokens(**counts, text=9, text_kept=4).to_dict() == counts | {"text": 9, "text_kept": 4, "prompt_kept": 112}
