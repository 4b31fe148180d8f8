"""What people see of a reply: nothing of a clip or an answer becomes markup."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

from omnisift.errors import UsageError
from omnisift.ui import render as show
from omnisift.ui.samples import write_samples
from omnisift.ui.session import Session


def test_cards_and_reuse(desk: Session, uploads: Path) -> None:
    first = show.answers(desk.ask(uploads / "seven.mp4", "Is a beep heard?", ["omnisift", "random"], 25))
    assert first.count("class='card'") == 3
    for said in ("all tokens", "omnisift+time", "63 of 246 (25.6 %)", "24 of 96", "39 of 150", "now encoded"):
        assert said in first
    second = show.answers(desk.ask(uploads / "seven.mp4", "Is a buzz heard?", ["omnisift", "omnizip"], 50))
    assert "anew for omnizip" in second
    third = show.answers(desk.ask(uploads / "seven.mp4", "Is a buzz heard?", ["random"], 50))
    assert "Reused the encoded clip: 2 answers in" in third
    assert "were left out" in third


def test_a_question_is_text(desk: Session, uploads: Path) -> None:
    reply = desk.ask(uploads / "seven.mp4", "<img src=x onerror=alert(1)>", ["uniform"], 25)
    assert "<img" not in show.answers(reply)
    frame = show.frame(reply)
    assert "<img" not in frame
    assert re.fullmatch(
        r"<iframe class='report' title='[^']*' sandbox='allow-scripts' srcdoc=\"[^\"]*\"></iframe>", frame
    )
    assert str(uploads) not in unescape(frame), "where uploads lie is nobody's business"
    assert unescape(frame.partition('srcdoc="')[2]).startswith("<!doctype html>")


def test_errors_are_their_own_sentence() -> None:
    assert show.error(UsageError("no <b>")) == "<p class='error' role='alert'>no &lt;b&gt;</p>"


def test_players(tmp_path: Path) -> None:
    strange = tmp_path / "a 'b\" #1?.mp4"
    player = show.player(strange, 'x"y')
    assert player.startswith("<video ")
    assert 'b" ' not in player.replace("class", "")
    assert "%20%27b%22%20%231%3F.mp4" in player
    assert show.player(tmp_path / "a.wav", "x").startswith("<audio ")
    assert "No clip" in show.player(None, "")


def test_words_of_steps() -> None:
    assert show.words("stvp+random: encode_audio") == "stvp+random: listening to the sound"
    assert show.words("read") == "reading the clip"


def test_samples_answer_their_questions(desk: Session, tmp_path: Path) -> None:
    samples = write_samples(tmp_path)
    assert len({sample.title for sample in samples}) == len(samples) >= 3
    desk = Session(desk.host, [tmp_path], max_new_tokens=6)
    for sample in samples:
        assert sample.questions
        trace = desk.ask(sample.path, sample.questions[0], ["omnisift"], 25).inspection.trace
        assert trace.evidence is not None, sample.title
        assert trace.methods[0].answer.text == trace.evidence.answer, sample.title
