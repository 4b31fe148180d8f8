"""Questions on the page: answers, reuse of encoded clips, file access, one sentence per mistake."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from tests.helpers.models import work_of_encoders
from tests.media.bombs import write_bomb
from tests.pipeline.test_ask import write_audio

from omnisift import errors, load
from omnisift.compressors import COMPRESSORS
from omnisift.errors import Damaged, MediaTimeout, OmniSiftError, UnreachableBudget
from omnisift.pipeline.encoded_clip import EncodedClip
from omnisift.pipeline.loading import Host
from omnisift.ui import render
from omnisift.ui.session import HOLD_BYTES, MAX_COMPRESSORS, Session

QUESTION = "Which colour appears last?"


def test_answers_are_those_of_the_library(session: Session, uploads: Path) -> None:
    answer = session.ask(uploads / "seven.mp4", QUESTION, ["omnisift", "random"], 25)
    methods = answer.inspection.trace.methods
    assert [method.name for method in methods] == ["none", "omnisift", "random"]
    plain = load("nano", compressor="omnisift", retain=0.25).ask(uploads / "seven.mp4", QUESTION)
    assert methods[1].answer.text == plain.text
    assert methods[1].answer.report.tokens == plain.report.tokens
    assert answer.encoding_seconds > 0


def test_the_default_method_of_a_model(session: Session, uploads: Path, tmp_path: Path) -> None:
    assert (session.default, session.reason) == ("resift", "default")
    selector = str(session.host.source) + "/selector"
    with_selector = Session(session.host, [tmp_path], selector=selector)
    assert (with_selector.default, with_selector.reason) == ("omnisift", "default: a selector was given")
    assert with_selector.default in with_selector.methods


def test_a_sound_is_compressed_when_asked(host: Host, tmp_path: Path) -> None:
    write_audio(tmp_path / "tone.wav", 4.0)
    for compress_audio, kept in ((True, 26), (False, 100)):
        session = Session(host, [tmp_path], compress_audio=compress_audio, max_new_tokens=4)
        answer = session.ask(tmp_path / "tone.wav", "Is a beep heard?", ["resift"], 25)
        assert answer.inspection.trace.methods[1].answer.report.tokens.audio_kept == kept


def test_a_second_question_reuses_the_encoded_clip(session: Session, uploads: Path) -> None:
    first = session.ask(uploads / "seven.mp4", QUESTION, ["omnisift"], 25)
    with work_of_encoders(session.host) as runs:
        second = session.ask(uploads / "seven.mp4", "What colour is the circle?", ["random"], 50)
    assert runs == {"encode_video": 0, "encode_audio": 0}
    assert (first.reused, second.reused) == (False, True)
    assert second.encoding_seconds == first.encoding_seconds > 0
    assert second.inspection.trace.methods[1].answer.report.retain == "0.5"


def test_a_method_that_needs_attention_encodes_again(session: Session, uploads: Path) -> None:
    session.ask(uploads / "seven.mp4", QUESTION, ["omnisift"], 25)
    answer = session.ask(uploads / "seven.mp4", QUESTION, ["omnizip", "random"], 50)
    assert (answer.reused, answer.reencoded) == (False, ("omnizip",))


@pytest.mark.parametrize("method", ["omnisift", "omnizip", "tome"])
def test_a_second_question_reads_its_own_tokens(session: Session, uploads: Path, method: str) -> None:
    """The page shows the same decision as if the method had made it again."""
    questions = ("What colour is the circle?", "How many shapes are there?")
    expected = session.ask(uploads / "eight.mp4", questions[1], [method], 60).inspection.trace
    session._clips.clear()
    for question in questions:
        with work_of_encoders(session.host) as runs:
            answer = session.ask(uploads / "eight.mp4", question, [method], 60)
    assert runs == {"encode_video": 0, "encode_audio": 0}
    assert (answer.reused, answer.reencoded) == (True, ())
    trace = answer.inspection.trace
    assert [made.answer.text for made in trace.methods] == [made.answer.text for made in expected.methods]
    for made, wanted in zip(trace.methods, expected.methods, strict=True):
        report = made.answer.report
        assert 0 < report.tokens.prompt_kept - report.cached_tokens < 20
        assert report.tokens == wanted.answer.report.tokens
    found, wanted = ([page.methods[1].selection, page.tokens] for page in (trace, expected))
    for one, other in zip(found, wanted, strict=True):
        for name, value in vars(other).items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(getattr(one, name), value)
    page = render.answers(answer)
    assert "<dt>held</dt>" in page
    assert "Held tokens were read for an earlier question" in page
    assert all(held.held.nbytes <= HOLD_BYTES for held in session._clips._entries.values())
    assert len(session._compressors) <= MAX_COMPRESSORS


def test_only_max_clips_are_kept(
    session: Session, uploads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []

    def encode(self: Session, path: Path) -> EncodedClip:
        encoded.append(path.name)
        return original(self, path)

    original = Session._encode
    monkeypatch.setattr(Session, "_encode", encode)
    names = ["a.mp4", "b.mp4", "a.mp4", "c.mp4", "a.mp4", "b.mp4"]
    session = Session(session.host, [tmp_path], max_clips=2, max_new_tokens=2)
    for name in "abc":
        shutil.copy(uploads / "seven.mp4", tmp_path / f"{name}.mp4")
    for name in names:
        session.ask(tmp_path / name, QUESTION, ["uniform"], 25)
    assert encoded == ["a.mp4", "b.mp4", "c.mp4", "b.mp4"]
    assert len(session._clips) == 2


def test_users_who_ask_at_once_get_their_own_clip(session: Session, uploads: Path) -> None:
    alone = {name: session.ask(uploads / name, QUESTION, ["uniform"], 25) for name in ("seven.mp4", "eight.mp4")}
    result: dict[int, tuple[str, str]] = {}

    def user(number: int) -> None:
        name = ("seven.mp4", "eight.mp4")[number % 2]
        trace = session.ask(uploads / name, QUESTION, ["uniform"], 25).inspection.trace
        result[number] = (Path(trace.clip.path).name, trace.methods[0].answer.text)

    users = [threading.Thread(target=user, args=(number,)) for number in range(6)]
    for each in users:
        each.start()
    for each in users:
        each.join()
    expected = {name: answer.inspection.trace.methods[0].answer.text for name, answer in alone.items()}
    names = ("seven.mp4", "eight.mp4")
    assert result == {number: (names[number % 2], expected[names[number % 2]]) for number in range(6)}


def test_a_file_that_changed_is_another_clip(session: Session, tmp_path: Path, uploads: Path) -> None:
    session = Session(session.host, [tmp_path], max_new_tokens=2)
    path = tmp_path / "clip.mp4"
    shutil.copy(uploads / "seven.mp4", path)
    session.ask(path, QUESTION, ["uniform"], 25)
    shutil.copy(uploads / "eight.mp4", path)
    assert not session.ask(path, QUESTION, ["uniform"], 25).reused


def test_a_model_without_selector_has_only_the_methods_that_need_none(host, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Session(host, []).methods == tuple(COMPRESSORS)

    def refuse(*_: object) -> None:
        raise errors.CompressorError("no selector weights")

    monkeypatch.setattr("omnisift.pipeline.method.load_selector", refuse)
    assert set(COMPRESSORS) - set(Session(host, []).methods) == {"omnisift"}


def test_a_selector_that_was_named_and_is_wrong_is_an_error_at_once(host, tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match="no selector folder"):
        Session(host, [], selector=str(tmp_path / "missing"))


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"path": None}, "UsageError", "no clip"),
        ({"path": "/etc/passwd"}, "Blocked", "not uploaded"),
        ({"path": "{uploads}/../elsewhere.mp4"}, "Blocked", "not uploaded"),
        ({"path": "{uploads}/link.mp4"}, "Blocked", "not uploaded"),
        ({"path": "{uploads}/notes.txt"}, "UsageError", "not a clip by its name"),
        ({"path": "{uploads}/gone.mp4"}, "NotFound", "no longer"),
        ({"path": "{uploads}/broken.mp4"}, "NotMedia", "broken.mp4"),
        ({"question": "  "}, "UsageError", "empty"),
        ({"question": "why " * 500}, "UsageError", "characters"),
        ({"question": "<|VIDEO|>"}, "UsageError", "stands for a clip"),
        ({"methods": ["magic"]}, "CompressorError", "magic"),
        ({"percent": 0}, "UsageError", "more than 0"),
        ({"percent": 101}, "UsageError", "at most 100"),
        ({"percent": None}, "UsageError", "at most 100 % of the tokens, got None"),
        ({"percent": "25"}, "UsageError", "at most 100"),
        ({"percent": float("nan")}, "UsageError", "at most 100"),
        ({"question": None}, "UsageError", "must be text"),
        ({"question": "\ud800"}, "UsageError", "not UTF-8"),
    ],
)
def test_mistakes_are_one_sentence_and_the_next_question_works(
    session: Session, uploads: Path, clip: Path, change: dict[str, object], kind: str, says: str
) -> None:
    (uploads / "broken.mp4").write_bytes(b"not a video" * 100)
    (uploads / "notes.txt").write_text("mine")
    if not (uploads / "link.mp4").is_symlink():
        (uploads / "link.mp4").symlink_to(clip)
    asked = {"path": uploads / "seven.mp4", "question": QUESTION, "methods": ["uniform"], "percent": 25} | change
    if isinstance(asked["path"], str):
        asked["path"] = asked["path"].format(uploads=uploads)
    with pytest.raises(OmniSiftError, match=says) as caught:
        session.ask(**asked)
    assert type(caught.value).__name__ == kind
    assert "\n" not in str(caught.value)
    assert str(uploads) not in str(caught.value)
    assert session.ask(uploads / "seven.mp4", QUESTION, ["uniform"], 25).inspection.trace.methods[0].answer.text


def test_an_unreachable_budget_leaves_the_clip_usable(session: Session, uploads: Path) -> None:
    with pytest.raises(UnreachableBudget, match="dycoke"):
        session.ask(uploads / "eight.mp4", QUESTION, ["dycoke"], 5)
    answer = session.ask(uploads / "eight.mp4", QUESTION, ["omnisift"], 25)
    assert answer.reused
    assert answer.encoding_seconds > 0  # the answer with all tokens encoded it


def test_progress_covers_all_methods(session: Session, uploads: Path) -> None:
    steps: list[tuple[float, str]] = []
    session.ask(uploads / "seven.mp4", QUESTION, ["omnisift"], 25, lambda done, step: steps.append((done, step)))
    assert steps[0] == (0.0, "read")
    assert {step.partition(":")[0] for _, step in steps[1:]} == {"all tokens", "omnisift"}
    assert all(0 <= done < 1 for done, _ in steps)
    starts = [done for done, step in steps if step.endswith("process")]
    assert starts == [0.0, 0.5]


def test_a_bomb_and_a_crash_cost_one_question(
    session: Session, uploads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One question at a time is answered for all users, so that none may take hours."""
    write_bomb(tmp_path / "bomb.mkv", 1000, (4096, 2160))
    session = Session(session.host, [tmp_path, uploads], max_new_tokens=2, read_options={"read_timeout": 1.0})
    with pytest.raises(MediaTimeout, match=r"^bomb\.mkv: can't be read within read_timeout=1 s"):
        session.ask(tmp_path / "bomb.mkv", QUESTION, ["uniform"], 25)
    monkeypatch.setattr(session._decoders, "_entry", "tests.serving.bad_decoders:main")
    session._decoders.close()
    shutil.copy(uploads / "seven.mp4", tmp_path / "abort.mp4")
    with pytest.raises(Damaged, match=r"^abort\.mp4: the decoder crashed on it"):
        session.ask(tmp_path / "abort.mp4", QUESTION, ["uniform"], 25)
    assert session.ask(uploads / "seven.mp4", QUESTION, ["uniform"], 25)


def written(path: Path, *rows: str) -> Path:
    cues = (f"{n}\n00:00:0{n},000 --> 00:00:0{n},900\n{text}\n" for n, text in enumerate(rows, 1))
    path.write_text("\n".join(cues))
    return path


def test_subtitles_of_the_clip_are_read_when_asked(session: Session, uploads: Path, tmp_path: Path) -> None:
    session = Session(session.host, [tmp_path], max_new_tokens=4)
    clip = tmp_path / "talk.mp4"
    shutil.copy(uploads / "seven.mp4", clip)
    written(tmp_path / "talk.srt", "a red circle", "then a beep")
    plain = session.ask(clip, QUESTION, ["uniform"], 25)
    asked = session.ask(clip, QUESTION, ["uniform"], 25, text=True)
    again = session.ask(clip, QUESTION, ["uniform"], 25)
    assert plain.inspection.trace.lines == ()
    assert ["".join(line.pieces) for line in asked.inspection.trace.lines] == ["a red circle", "then a beep"]
    tokens = asked.inspection.trace.methods[1].answer.report.tokens
    assert (tokens.text, plain.inspection.trace.methods[1].answer.report.tokens.text) == (6, 0)
    assert "<div><dt>text</dt><dd>6 of 6</dd></div>" in render.answers(asked)
    assert "<dt>text</dt>" not in render.answers(plain)
    assert (asked.reused, again.reused) == (False, True)


def test_an_uploaded_file_of_subtitles_is_read_with_the_clip(session: Session, uploads: Path, tmp_path: Path) -> None:
    session = Session(session.host, [tmp_path, uploads], max_new_tokens=4)
    words = written(tmp_path / "words.srt", "a red <b>circle</b>")
    answers = [session.ask(uploads / "seven.mp4", QUESTION, ["uniform"], 25, subtitles=words) for _ in range(2)]
    assert [answer.reused for answer in answers] == [False, True]
    trace = answers[0].inspection.trace
    assert [(line.start, "".join(line.pieces)) for line in trace.lines] == [(1.0, "a red circle")]
    assert trace.clip.path == str((uploads / "seven.mp4").resolve())
    assert "omnisift-ui-" not in render.frame(answers[0])
    written(words, "a green square", "and a beep")
    changed = session.ask(uploads / "seven.mp4", QUESTION, ["uniform"], 25, subtitles=words)
    assert len(changed.inspection.trace.lines) == 2
    (tmp_path / "words.vtt").write_text("WEBVTT\n\n00:02.000 --> 00:03.000\n<i>\U0001f600</i> & <script>\n")
    page = render.frame(session.ask(uploads / "seven.mp4", QUESTION, ["uniform"], 25, subtitles=tmp_path / "words.vtt"))
    assert page.count("<script>") == 0, "the report is escaped as an attribute"


@pytest.mark.parametrize(
    ("name", "content", "kind", "says"),
    [
        ("words.txt", "a", "UsageError", "words.txt is no file of subtitles by its name; upload .srt or .vtt"),
        ("gone.srt", None, "NotFound", "gone.srt no longer exists"),
        ("../words.srt", "a", "Blocked", "words.srt was not uploaded"),
        ("words.srt", "\0\1\2" * 50, "NotMedia", r"^seven\.mp4: its subtitles words\.srt: "),
        ("token.srt", "1\n00:00:01,000 --> 00:00:02,000\n<|VIDEO|>\n", "UsageError", "subtitle at 1.0 s"),
    ],
)
def test_wrong_subtitles_are_one_sentence(
    session: Session, uploads: Path, tmp_path: Path, name: str, content: str | None, kind: str, says: str
) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    session = Session(session.host, [folder, uploads], max_new_tokens=4)
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(OmniSiftError, match=says) as caught:
        session.ask(uploads / "seven.mp4", QUESTION, ["uniform"], 25, subtitles=folder / name)
    assert type(caught.value).__name__ == kind
    assert "\n" not in str(caught.value)
    assert str(uploads) not in str(caught.value)
    assert "omnisift-ui-" not in str(caught.value)
    assert session.ask(uploads / "seven.mp4", QUESTION, ["uniform"], 25).inspection.trace.lines == ()
