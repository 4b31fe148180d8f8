"""What users see of an answer: no text of a clip or an answer becomes markup."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

from omnisift.errors import UsageError
from omnisift.ui import render
from omnisift.ui.samples import write_samples
from omnisift.ui.session import Session


def test_cards_and_times(session: Session, uploads: Path) -> None:
    first = render.answers(session.ask(uploads / "seven.mp4", "Is a beep heard?", ["omnisift", "random"], 25))
    assert first.count("class='card'") == 3
    assert "True answer: " in first
    for expected in ("all tokens", "omnisift+time", "63 of 246 (25.6 %)", "24 of 96", "39 of 150", "without encoders"):
        assert expected in first
    assert re.search(r"Reading and encoding the clip took \d+\.\d\d s, once", first)
    second = render.answers(session.ask(uploads / "seven.mp4", "Is a buzz heard?", ["omnisift", "omnizip"], 50))
    assert re.search(r"The encoders ran again for omnizip \(\d+\.\d\d s\)", second)
    third = render.answers(session.ask(uploads / "seven.mp4", "Is a buzz heard?", ["random"], 50))
    assert re.search(r"The encoded clip was reused: encoding it took \d+\.\d\d s the first time", third)


def test_a_question_is_escaped(session: Session, uploads: Path) -> None:
    answer = session.ask(uploads / "seven.mp4", "<img src=x onerror=alert(1)>", ["uniform"], 25)
    assert "<img" not in render.answers(answer)
    frame = render.frame(answer)
    assert "<img" not in frame
    assert re.fullmatch(
        r"<iframe class='report' title='[^']*' sandbox='allow-scripts' srcdoc=\"[^\"]*\"></iframe>", frame
    )
    assert str(uploads) not in unescape(frame), "users must not see the folders of this machine"
    assert unescape(frame.partition('srcdoc="')[2]).startswith("<!doctype html>")


def test_errors_show_their_message() -> None:
    assert render.error(UsageError("no <b>")) == "<p class='error' role='alert'>no &lt;b&gt;</p>"


def test_players(tmp_path: Path) -> None:
    strange = tmp_path / "a 'b\" #1?.mp4"
    player = render.player(strange, 'x"y')
    assert player.startswith("<video ")
    assert 'b" ' not in player.replace("class", "")
    assert "%20%27b%22%20%231%3F.mp4" in player
    assert render.player(tmp_path / "a.wav", "x").startswith("<audio ")
    assert "No clip" in render.player(None, "")


def test_text_of_steps() -> None:
    assert render.step_text("stvp+random: encode_audio") == "stvp+random: encoding audio"
    assert render.step_text("read") == "reading the clip"


def test_samples_show_that_the_choice_matters(session: Session, tmp_path: Path) -> None:
    """All tokens and omnisift answer every example question; the same number of random tokens does not."""
    samples = write_samples(tmp_path)
    assert len({sample.title for sample in samples}) == len(samples) >= 3
    session = Session(session.host, [tmp_path], max_new_tokens=6)
    for sample in samples:
        random = []
        for question in sample.questions:
            trace = session.ask(sample.path, question, ["omnisift", "random"], 25).inspection.trace
            assert trace.evidence is not None, sample.title
            right = [method.answer.text == trace.evidence.answer for method in trace.methods]
            assert right[:2] == [True, True], (sample.title, question)
            random.append(right[2])
        assert not all(random), sample.title
