"""Live sessions: bounded queues, honest ends, and requests that only the page can make."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from tests.media.test_piece_bytes import encoded, picture
from tests.ui.asgi import Inner, request

from omnisift.errors import OmniSiftError, UnsupportedModel, UsageError
from omnisift.media.piece_bytes import image_message, samples_message
from omnisift.media.pieces import Piece
from omnisift.ui.live import LiveLimits, LiveSession, SessionEnded
from omnisift.ui.live_routes import MAX_PIECES, MAX_REQUEST, LiveRoutes
from omnisift.ui.live_sessions import LiveSessions, LiveSettings
from omnisift.ui.request_filter import RequestFilter

LIMITS = LiveLimits(sessions=2, idle_seconds=30, queued_seconds=4, queued_pieces=64, max_new_tokens=7)
SETTINGS = LiveSettings("nano", 25, True)


@dataclass
class Report:
    seconds: float = 0.0
    held_tokens: int = 0
    held_seconds: float = 0.0
    gap_seconds: float = 0.0
    repeated_images: int = 0
    silent_seconds: float = 0.0
    late_pieces: int = 0


@dataclass
class Answer:
    text: str
    time: float


@dataclass
class FakeStream:
    """Reads pieces once ``open`` is set, and remembers what it was asked."""

    fails: Exception | None = None
    open: threading.Event = field(default_factory=threading.Event)
    fed: list[Piece] = field(default_factory=list)
    asked: list[tuple[str, bool, int]] = field(default_factory=list)
    forgotten: int = 0
    closed: threading.Event = field(default_factory=threading.Event)
    answering: threading.Event = field(default_factory=threading.Event)
    may_answer: threading.Event = field(default_factory=threading.Event)
    report: Report = field(default_factory=Report)

    def __post_init__(self) -> None:
        self.open.set()
        self.may_answer.set()

    def feed(self, piece: Piece) -> None:
        assert self.open.wait(20)
        if self.fails is not None:
            raise self.fails
        assert not self.closed.is_set()
        self.fed.append(piece)
        self.report = Report(piece.time, 10 * len(self.fed), piece.time)

    def ask(self, question: str, *, follow_up: bool, max_new_tokens: int) -> Answer:
        self.answering.set()
        assert self.may_answer.wait(20)
        assert not self.closed.is_set()
        self.asked.append((question, follow_up, max_new_tokens))
        return Answer(f"seen {len(self.fed)}", self.report.seconds)

    def forget(self) -> None:
        self.forgotten += 1

    def close(self) -> None:
        self.closed.set()


def until(holds: Any) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def images(*times: float) -> list[Piece]:
    return [Piece(time, image=np.zeros((4, 4, 3), np.uint8)) for time in times]


def session_of(stream: FakeStream, limits: LiveLimits = LIMITS) -> tuple[LiveSession, list[str]]:
    reasons: list[str] = []
    return LiveSession(stream, limits, reasons.append), reasons


def test_pieces_reach_the_model_in_order_and_questions_are_answered() -> None:
    stream = FakeStream()
    session, reasons = session_of(stream)
    session.add(images(0.0, 0.5))
    session.add([Piece(0.6, samples=np.zeros(8000, np.float32))])
    until(lambda: len(stream.fed) == 3)
    assert [piece.time for piece in stream.fed] == [0.0, 0.5, 0.6]
    answer = session.ask("What is it?", follow_up=True)
    assert (answer.text, answer.time) == ("seen 3", 0.6)
    assert answer.latency > 0
    assert stream.asked == [("What is it?", True, 7)]
    status = session.status()
    assert (status.held_tokens, status.held_seconds, status.dropped_seconds) == (30, 0.6, 0)
    assert status.behind_seconds == pytest.approx(0.5)  # the end of the samples
    session.forget()
    assert stream.forgotten == 1
    session.end("enough")
    session.join()
    assert stream.closed.is_set()
    assert reasons == ["enough"]
    for use in (lambda: session.add(images(1.0)), lambda: session.ask("x"), session.forget):
        with pytest.raises(SessionEnded, match="enough"):
            use()


def test_the_oldest_waiting_pieces_make_room() -> None:
    stream = FakeStream()
    stream.open.clear()
    session, _ = session_of(stream)
    session.add(images(0.0))
    until(lambda: not session._pieces)  # the model is reading it
    status = session.add(images(*np.arange(1, 21) / 2))
    assert status.dropped_seconds == pytest.approx(5.5)
    assert status.behind_seconds == pytest.approx(10.0)
    stream.open.set()
    until(lambda: len(stream.fed) == 10)
    assert [piece.time for piece in stream.fed] == [0.0, *np.arange(12, 21) / 2]
    session.end("enough")
    session.join()


def test_no_more_pieces_wait_than_allowed() -> None:
    stream = FakeStream()
    stream.open.clear()
    session, _ = session_of(stream)
    session.add(images(*[0.0] * 500))
    assert len(session._pieces) <= LIMITS.queued_pieces
    session.end("enough")
    stream.open.set()
    session.join()


def test_a_jump_in_time_is_refused() -> None:
    """Otherwise one piece could make the stream fill years."""
    stream = FakeStream()
    session, _ = session_of(stream)
    session.add(images(50.0))
    with pytest.raises(UsageError, match=r"a piece of 111\.0 s follows one of 50\.0 s"):
        session.add(images(111.0))
    session.add(images(51.0))
    until(lambda: len(stream.fed) == 2)
    session.end("enough")
    session.join()


def test_a_session_without_pieces_ends() -> None:
    stream = FakeStream()
    session, reasons = session_of(stream, LiveLimits(idle_seconds=0.05))
    session.join()
    assert stream.closed.is_set()
    assert reasons == ["the stream was closed after 0.05 s without images and sound; start it again"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(UsageError("the clock runs backwards"), "the clock runs backwards"), (ValueError("a"), r"failed \(ValueError\)")],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_of_the_model_ends_the_session(error: Exception, reason: str) -> None:
    stream = FakeStream(fails=error)
    session, reasons = session_of(stream)
    session.add(images(0.0))
    session.join()
    assert stream.closed.is_set()
    with pytest.raises(SessionEnded, match=reason):
        session.ask("What is it?")
    assert len(reasons) == 1


def test_one_question_at_a_time_and_the_stream_stays_open_for_it() -> None:
    stream = FakeStream()
    stream.may_answer.clear()
    session, _ = session_of(stream)
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(session.ask("What is it?")))
    asking.start()
    assert stream.answering.wait(20)
    for use in (lambda: session.ask("And now?"), session.forget):
        with pytest.raises(UsageError, match="a question is being answered"):
            use()
    session.end("enough")
    assert not stream.closed.wait(0.05)
    stream.may_answer.set()
    asking.join()
    session.join()
    assert answers[0].text == "seen 0"
    assert stream.closed.is_set()


@pytest.mark.parametrize("question", ["", "  ", "x" * 1001, None, 5, "\ud800"])
def test_wrong_questions(question: Any) -> None:
    session, _ = session_of(FakeStream())
    with pytest.raises(UsageError):
        session.ask(question)
    session.end("enough")
    session.join()


def sessions_of(*streams: FakeStream, limits: LiveLimits = LIMITS) -> tuple[LiveSessions, list[LiveSettings]]:
    opened: list[LiveSettings] = []

    def open_stream(settings: LiveSettings) -> FakeStream:
        opened.append(settings)
        return streams[len(opened) - 1]

    return LiveSessions({"nano": open_stream}, limits), opened


def test_the_number_of_sessions_is_limited() -> None:
    streams = [FakeStream() for _ in range(3)]
    sessions, opened = sessions_of(*streams)
    first, second = sessions.start(SETTINGS), sessions.start(SETTINGS)
    assert first != second
    with pytest.raises(UsageError, match="all 2 live streams"):
        sessions.start(SETTINGS)
    sessions.get(first).end("stopped")
    until(lambda: len(sessions) == 1)
    with pytest.raises(SessionEnded, match="stopped"):
        sessions.get(first)
    with pytest.raises(SessionEnded, match="no such stream"):
        sessions.get("other")
    assert sessions.get(sessions.start(SETTINGS))
    sessions.close()
    assert all(stream.closed.is_set() for stream in streams)
    assert opened == [SETTINGS] * 3
    assert len(sessions) == 0


def test_a_stream_that_does_not_open_takes_no_place() -> None:
    def refuse(settings: LiveSettings) -> FakeStream:
        raise UnsupportedModel("this family can't stream")

    sessions = LiveSessions({"nano": refuse}, LIMITS)
    for _ in range(3):
        with pytest.raises(UnsupportedModel, match="can't stream"):
            sessions.start(SETTINGS)


@pytest.mark.parametrize(
    "change",
    [
        *({"model": value} for value in ("x", None, ["nano"])),
        *({"percent": value} for value in (0, 101, None, "25", True, float("nan"), 10**400)),
        *({"audio": value} for value in (None, 1, "true")),
    ],
)
def test_wrong_settings(change: dict[str, Any]) -> None:
    sessions, opened = sessions_of()
    with pytest.raises(UsageError) as caught:
        sessions.start(LiveSettings(**{"model": "nano", "percent": 25, "audio": True} | change))
    assert "\n" not in str(caught.value)
    assert opened == []


class Page:
    """What the script of the page sends."""

    def __init__(self, *streams: FakeStream) -> None:
        self.sessions, _ = sessions_of(*streams)
        self.app = RequestFilter(Inner(), live=LiveRoutes(self.sessions))

    def post(self, name: str, body: Any = b"{}", key: str | None = None, **headers: str | None) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = request(self.app, "POST", f"/live/{name}", data, x_live_session=key, **headers)
        try:
            return answer.status, json.loads(answer.body)
        except ValueError:
            return answer.status, answer.body.decode()


def parts(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(4, "little") + message for message in messages)


def test_a_stream_over_http() -> None:
    stream = FakeStream()
    page = Page(stream)
    status, opened = page.post("start", {"model": "nano", "percent": 25, "audio": True})
    assert (status, opened["idle_seconds"]) == (200, 30)
    key = opened["session"]
    sent = parts(image_message(0.0, encoded(picture())), samples_message(0.0, np.full(1600, 0.25, np.float32)))
    status, state = page.post("pieces", sent, key)
    assert status == 200
    assert state.keys() == {
        *("seconds", "held_tokens", "held_seconds", "behind_seconds", "dropped_seconds", "notices"),
    }
    until(lambda: len(stream.fed) == 2)
    np.testing.assert_array_equal(stream.fed[0].image, picture())
    np.testing.assert_array_equal(stream.fed[1].samples, np.full(1600, 0.25, np.float32))
    status, answer = page.post("ask", {"question": "What is it?"}, key)
    assert (status, answer["text"], answer["status"]["held_tokens"]) == (200, "seen 2", 20)
    assert stream.asked == [("What is it?", False, 7)]
    assert page.post("forget", key=key)[0] == 200
    assert page.post("stop", key=key)[0] == 200
    until(lambda: len(page.sessions) == 0)
    assert page.post("pieces", sent, key) == (410, {"error": "the stream was stopped; start it again"})


@pytest.mark.parametrize(
    ("name", "body", "says"),
    [
        ("start", b"{", "send a JSON object"),
        ("start", b"[" * 10000, "send a JSON object"),
        ("start", {"model": "nano", "percent": 25, "audio": True, "more": 1}, "send a JSON object"),
        ("start", {}, "the page has no model"),
        ("ask", {"question": ""}, "the question is empty"),
        ("ask", {}, "must be text"),
        ("ask", {"question": "What is it?", "follow_up": 1}, "follow_up"),
        ("pieces", b"\xff\xff\xff\xff", "shorter"),
        ("pieces", parts(b"x"), "1 bytes"),
        ("pieces", parts(image_message(0.0, b"no image")), "JPEG or PNG"),
        ("pieces", parts(*[samples_message(0.0, np.zeros(10, np.float32))] * (MAX_PIECES + 1)), "33 pieces"),
        ("pieces", parts(samples_message(500.0, np.zeros(10, np.float32))), "500.0 s"),
    ],
)
def test_wrong_requests_are_one_sentence(name: str, body: Any, says: str) -> None:
    page = Page(FakeStream(), FakeStream())
    key = page.post("start", {"model": "nano", "percent": 25, "audio": True})[1]["session"]
    status, result = page.post(name, body, key)
    assert status == 400
    assert says in result["error"]
    assert "\n" not in result["error"]
    assert page.post("ask", {"question": "What is it?"}, key)[0] == 200
    page.sessions.close()


def test_requests_that_the_page_does_not_make() -> None:
    page = Page(FakeStream())
    assert page.post("ask", {"question": "x"})[0] == 410
    assert page.post("ask", {"question": "x"}, "0" * 32)[0] == 410
    assert page.post("other")[0] == 403
    assert page.post("start", bytes(1 << 15))[0] == 413
    assert page.post("pieces", b"", content_length=str(MAX_REQUEST + 1))[0] == 413
    assert page.post("pieces", b"", content_length=None)[0] == 413
    assert page.post("start", origin="http://evil.example")[0] == 403
    assert request(page.app, "GET", "/live/start").status == 405
    assert request(page.app, "POST", "/live/live.js").status == 405
    for path in ("/live/", "/live/../page.css", "/live/live.html", "/live/start/", "/live%2Fstart", "/x/live/start"):
        assert request(page.app, "GET", path).status == 403
    assert request(RequestFilter(Inner()), "POST", "/live/start", b"{}").status == 403


@pytest.mark.parametrize("name", ["live.js", "live_microphone.js"])
def test_scripts(name: str) -> None:
    answer = request(Page().app, "GET", f"/live/{name}")
    assert answer.status == 200
    assert answer.headers[b"content-type"] == b"text/javascript; charset=utf-8"
    assert b"connect-src 'self'" in answer.headers[b"content-security-policy"]
    assert b"//" in answer.body


def test_the_reason_of_an_ended_session_is_kept_for_a_while() -> None:
    streams = [FakeStream() for _ in range(40)]
    sessions, _ = sessions_of(*streams)
    keys = []
    for _ in streams:
        keys.append(sessions.start(SETTINGS))
        sessions.get(keys[-1]).end("stopped")
        until(lambda: len(sessions) == 0)
    for key, says in ((keys[-1], "stopped"), (keys[0], "no such stream")):
        with pytest.raises(OmniSiftError, match=says):
            sessions.get(key)
