"""`omnisift watch` as a user and as a script meet it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnisift import Piece
from omnisift.cli import main, watch_commands
from omnisift.cli.watch_commands import parse_duration, parse_speed
from omnisift.cli.watch_loop import RuleState, Watch
from omnisift.cli.watch_screen import clock
from omnisift.errors import UsageError
from omnisift.streaming import LiveReader
from omnisift.streaming.report import StreamAnswer, StreamReport
from omnisift.world import make_scene, world_setting, write_clip

Omnisift = Callable[..., tuple[int, str, str]]
ANSWER = {
    "event", "time", "question", "answer", "first_token_seconds", "seconds", "behind_seconds", "dropped_seconds",
    "held_tokens", "held_seconds",
}  # fmt: skip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 s: a magenta triangle with a buzz at 2 s, a green circle with a whistle at 22 s."""
    path = tmp_path_factory.mktemp("watch") / "long.mp4"
    write_clip(make_scene(33, "test", world_setting("long").config), path)
    return path


def lines_of(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_each_answer_is_a_line_and_the_last_is_a_summary(omnisift: Omnisift, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "watch.jsonl"
    code, output, errors = omnisift(
        "watch", clip, "--ask", "What colour is the triangle?", "--ask", "What colour is the circle?",
        "--every", "8s", "--keep", "window:12", "--out", out,
    )  # fmt: skip
    assert (code, errors) == (0, "")
    *answers, summary = lines_of(output)
    assert out.read_text(encoding="utf-8") == output
    assert [line["time"] for line in answers] == [8.0, 8.0, 16.0, 16.0, 24.0, 24.0]
    assert all(line.keys() == ANSWER for line in answers)
    assert answers[0]["answer"] == "magenta"
    assert answers[5]["answer"] == "green"
    assert answers[5]["held_seconds"] <= 12
    assert answers[5]["held_tokens"] > 50
    assert (summary["event"], summary["stopped"], summary["answers"]) == ("summary", "end", 6)
    assert summary["seconds"] == pytest.approx(24.0, abs=0.1)
    assert summary["keep"] == "SlidingWindow(seconds=12.0)"
    assert (summary["notices"], summary["warnings"], summary["dropped_seconds"]) == ([], [], 0)
    assert omnisift("watch", clip, "--ask", "What?", "--out", out)[0] == 2  # it exists


def test_rules_tell_when_they_begin_and_end(omnisift: Omnisift, clip: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("whistle: Is a whistle heard?\nbuzz: Is a buzz heard?\n", encoding="utf-8")
    arguments = ("watch", clip, "--rules", rules, "--every", "6s", "--keep", "window:6", "--stop-after", "0.4m")
    code, output, _ = omnisift(*arguments, "--all")
    assert code == 0
    *events, summary = lines_of(output)
    answers = [event for event in events if event["event"] == "answer"]
    assert [(event["time"], event["rule"]) for event in answers] == [
        (time, rule) for time in (6.0, 12.0, 18.0, 24.0) for rule in ("whistle", "buzz")
    ]
    # A hit begins with the first yes, and ends with the next no.
    for rule in ("whistle", "buzz"):
        held, spans = False, []
        for event in answers:
            if event["rule"] == rule and event["hit"] is not None and event["hit"] != held:
                held = event["hit"]
                spans.append(("begin" if held else "end", event["time"]))
        assert spans == [(e["event"], e["time"]) for e in events if e["event"] != "answer" and e["rule"] == rule]
        ends = [[begin, None] if number == len(spans) - 1 else [begin, spans[number + 1][1]]
                for number, (kind, begin) in enumerate(spans) if kind == "begin"]  # fmt: skip
        assert summary["rules"][rule]["held"] == ends
    assert any(event["event"] == "begin" for event in events)
    # Without --all, the same without the answers.
    changes = lines_of(omnisift(*arguments)[1])[:-1]
    assert [(e["event"], e["time"], e["rule"]) for e in changes] == [
        (e["event"], e["time"], e["rule"]) for e in events if e["event"] != "answer"
    ]


def test_a_terminal_gets_text(omnisift: Omnisift, clip: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rules = tmp_path / "rules.txt"
    rules.write_text("shape: Is a buzz heard?\n", encoding="utf-8")
    monkeypatch.setattr(watch_commands, "_is_terminal", lambda: True)
    question = "What colour is the triangle?"
    code, output, _ = omnisift("watch", clip, "--ask", question, "--rules", rules, "--stop-after", "10s")
    assert code == 0
    assert f"00:10.0  {question}  magenta  " in output
    assert "tokens held, " in output
    assert "00:10.0 of the stream, 2 answers; " in output
    assert "rule shape: " in output
    code, output, _ = omnisift("watch", clip, "--ask", question, "--stop-after", "10s", "--json")
    assert [line["event"] for line in lines_of(output)] == ["answer", "summary"]


@pytest.fixture(scope="module")
def stream_file(clip: Path) -> Path:
    """The clip as a transport stream, without the mark of a generated clip."""
    import av

    path = clip.with_suffix(".ts")
    with av.open(str(clip)) as source, av.open(str(path), "w", format="mpegts") as copy:
        streams = {stream.index: copy.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                copy.mux(packet)
    return path


def test_a_pipe(stream_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Standard input, and the notice that nano knows its own world alone."""
    monkeypatch.setattr(sys, "argv", ["omnisift", "watch", "-", "--ask", "What colour is the circle?"])
    stdin = stream_file.open("rb")
    monkeypatch.setattr(sys, "stdin", stdin)
    with stdin, pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    *answers, summary = lines_of(capsys.readouterr().out)
    assert answers[-1]["answer"] == "green"
    assert summary["source"] == "standard input"
    assert "nano" in summary["notices"][0]


def test_an_address(omnisift: Omnisift, stream_file: Path) -> None:
    handler_class = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = partial(handler_class, directory=str(stream_file.parent))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/{stream_file.name}"
        arguments = ("watch", url, "--ask", "What colour is the circle?", "--no-audio")
        code, _, errors = omnisift(*arguments)
        assert (code, "addresses are not opened" in errors) == (2, True)
        code, output, errors = omnisift(*arguments, "--allow-address")
    finally:
        server.shutdown()
        server.server_close()
    assert (code, errors) == (0, "")
    *answers, summary = lines_of(output)
    assert answers[-1]["answer"] == "green"
    assert (summary["source"], summary["dropped_seconds"]) == (url, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.mp4", "--ask", "What?"], "error (NotFound): a.mp4: can't be found"),
        (["clip"], "error (UsageError): nothing is asked; give --ask QUESTION or --rules FILE"),
        (["clip", "--ask", " "], "error (UsageError): the question is empty"),
        (["clip", "--ask", "What?", "--all"], "error (UsageError): --all needs --rules FILE"),
        (["clip", "--ask", "What?", "--every", "often"], "error (UsageError): --every is a time such as 10s, 5m or 1h"),
        (["clip", "--ask", "What?", "--stop-after", "0"], "error (UsageError): --stop-after is a time such as"),
        (["clip", "--ask", "What?", "--speed", "slow"], "error (UsageError): --speed is real, fast, or a factor"),
        (["clip", "--ask", "What?", "--keep", "some"], "error (UsageError): keep is all, window:60"),
        (["clip", "--ask", "What?", "--fps", "0"], "error (UsageError): fps must be above 0"),
        (["clip", "--ask", "What?", "--tokens", "20"], "error (UsageError): a stream has no end"),
        (["clip", "--ask", "What?", "--method", "evs"], "error (CompressorError): evs looks at the whole clip"),
        (["clip", "--ask", "What?", "--method", "full", "--keep", "budgets:60,300=0.1"], "error (UsageError): NestedB"),
        (["clip", "--ask", "What?", "--out", "no/where.jsonl"], "error (UsageError): folder no does not exist"),
        (["rtsp://me:word@h/1", "--ask", "What?"], "error (Blocked): rtsp://h/1: addresses are not opened; allow them"),
        (["nohost://", "--ask", "What?", "--allow-address"], "error (UsageError): 'nohost://' is no address"),
        (["microphone:", "--ask", "What?"], "error (UsageError): a stream needs images, and a microphone has none"),
        (["-", "--ask", "What?"], "error (NotReadable): standard input: is closed"),
    ],
)
def test_wrong_arguments_are_one_line(
    omnisift: Omnisift, clip: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, output, errors = omnisift("watch", *[str(clip) if part == "clip" else part for part in arguments])
    assert (code, output) == (2, "")
    assert errors.startswith(message)
    assert errors.count("\n") == 1


def test_sound_alone_is_refused(omnisift: Omnisift, tmp_path: Path) -> None:
    import wave

    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setparams((1, 2, 16_000, 0, "NONE", ""))
        sound.writeframes(bytes(32_000))
    code, _, errors = omnisift("watch", tmp_path / "a.wav", "--ask", "What?")
    assert code == 2
    assert "error (NoVideo): " in errors
    assert "a.wav: has no video, and a stream needs images" in errors


def test_ctrl_c_ends_with_a_summary(omnisift: Omnisift, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Watch.ask

    def interrupting(self: Watch) -> None:
        ask(self)
        if self.answers == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Watch, "ask", interrupting)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in jobs that run in the background
    try:
        code, output, errors = omnisift("watch", clip, "--ask", "What colour is the circle?", "--every", "5s")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (code, errors) == (130, "")
    *answers, summary = lines_of(output)
    assert [line["time"] for line in answers] == [5.0, 10.0]
    assert (summary["stopped"], summary["seconds"]) == ("interrupted", 10.0)


def test_a_failing_source_ends_with_summary_and_error(
    omnisift: Omnisift, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from omnisift.errors import MediaTimeout
    from omnisift.media.live import LiveSource

    pieces = LiveSource._pieces

    def failing(self: LiveSource) -> Iterator[Piece]:
        for piece in pieces(self):
            if piece.time > 6:
                raise MediaTimeout("no data for 30 s")
            yield piece

    monkeypatch.setattr(LiveSource, "_pieces", failing)
    code, output, errors = omnisift("watch", clip, "--ask", "What colour is the triangle?", "--every", "4s")
    assert code == 2
    assert errors == f"error (MediaTimeout): {clip}: no data for 30 s\n"
    assert [line.get("stopped") for line in lines_of(output)] == [None, "error"]


@pytest.mark.slow
def test_signals_and_a_closed_pipe_in_a_process(clip: Path) -> None:
    call = [sys.executable, "-m", "omnisift.cli", "watch", str(clip), "--ask", "What?", "--every", "1s"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*call, "--speed", "real"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as run:
        assert run.stdout is not None
        assert json.loads(run.stdout.readline())["event"] == "answer"
        run.send_signal(signal.SIGINT)
        output, errors = run.communicate(timeout=60)
    assert (run.returncode, errors) == (130, b"")
    assert json.loads(output.splitlines()[-1])["stopped"] == "interrupted"
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as run:
        assert run.stdout is not None
        run.stdout.readline()
        run.stdout.close()
        assert run.stderr is not None
        errors = run.stderr.read()
        run.wait(60)
    assert (run.returncode, errors) == (1, b"")


# --- the loop, with a session that costs nothing -------------------------------------------------------------------


class FakeSession:
    """Answers with what it is told to, and remembers what was fed."""

    compressor = None

    def __init__(self, replies: Callable[[str, float], str] = lambda *_: "fine") -> None:
        self.fed: list[Piece] = []
        self.asked: list[tuple[float, str]] = []
        self._replies = replies

    @property
    def unit_seconds(self) -> float | None:
        return 2.0 if any(piece.image is not None for piece in self.fed) else None

    @property
    def report(self) -> StreamReport:
        seconds = max((piece.time for piece in self.fed), default=-0.5) + 0.5
        return StreamReport(seconds, 1, 7, 1, 2.0, 0, 0, 0, 0.0, 0.0, 0.0)

    def feed(self, piece: Piece) -> int:
        self.fed.append(piece)
        return 0

    def ask(self, question: str, **_: Any) -> StreamAnswer:
        time = self.report.seconds
        self.asked.append((time, question))
        return StreamAnswer(self._replies(question, time), time, 0.1, 0.2, 1, self.report)


class Listed:
    is_live = False

    def __init__(self, pieces: list[Piece]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[Piece]:
        return iter(self._pieces)

    def stop(self) -> None:
        pass


def images(*times: float) -> list[Piece]:
    return [Piece(time, image=np.zeros((2, 2, 3), np.uint8)) for time in times]


def watched(session: FakeSession, pieces: list[Piece], **options: Any) -> tuple[list[dict[str, Any]], Watch]:
    events: list[dict[str, Any]] = []
    values: dict[str, Any] = {
        "questions": ["Q"], "rules": {}, "every": 10.0, "stop_after": float("inf"), "all_answers": False,
        "max_new_tokens": 5, "tell": events.append, "progress": lambda _: None,
    }  # fmt: skip
    with LiveReader(Listed(pieces)) as reader:
        watch = Watch(session, reader, **{**values, **options})  # type: ignore[arg-type]
        watch.run()
    return events, watch


def test_questions_are_asked_when_they_are_due_and_at_the_end() -> None:
    session = FakeSession()
    watched(session, images(*np.arange(0, 25, 0.5)))
    assert session.asked == [(10.0, "Q"), (20.0, "Q"), (25.0, "Q")]
    # Nothing new since the last time; a gap makes no question twice.
    session = FakeSession()
    watched(session, images(*np.arange(0, 10, 0.5), 45.0, 45.5, 50.0))
    assert session.asked == [(10.0, "Q"), (46.0, "Q"), (50.5, "Q")]
    session = FakeSession()
    watched(session, images(*np.arange(0, 60, 0.5)), stop_after=20.0)
    assert session.asked == [(10.0, "Q"), (20.0, "Q")]
    assert session.fed[-1].time == 19.5


def test_nothing_is_asked_before_the_first_image() -> None:
    session = FakeSession()
    sound = [Piece(number / 4, samples=np.zeros(4000, np.float32)) for number in range(100)]
    events, watch = watched(session, sound)
    assert (events, session.asked, watch.summary()["answers"]) == ([], [], 0)


def test_a_rule_holds_until_the_next_no() -> None:
    replies = {1: "no", 2: "Yes.", 3: "yes", 4: "perhaps", 5: "No, it does not", 6: "yes"}
    session = FakeSession(lambda _, time: replies[round(time)])
    events, watch = watched(session, images(*np.arange(0, 6, 0.5)), questions=[], rules={"r": "Is it?"}, every=1.0)
    assert [(event["event"], event["time"], event["hit"]) for event in events] == [
        ("begin", 2.0, True), ("end", 5.0, False), ("begin", 6.0, True),
    ]  # fmt: skip
    assert watch.summary()["rules"]["r"]["unclear"] == 1


def test_the_state_of_a_rule() -> None:
    state = RuleState()
    verdicts = [False, None, True, None, True, False, False, True]
    assert [state.update(verdict, float(time)) for time, verdict in enumerate(verdicts)] == [
        None, None, "begin", None, None, "end", None, "begin",
    ]  # fmt: skip
    assert (state.spans, state.unclear, state.holds) == ([[2.0, 5.0], [7.0, None]], 2, True)


def test_durations_speeds_and_times() -> None:
    assert [parse_duration("--every", text) for text in ("10", "10s", "1.5m", "2h", ".5s")] == [10, 10, 90, 7200, 0.5]
    for text in ("", "s", "-1", "1d", "0s", "1e3", "nan"):
        with pytest.raises(UsageError, match="--every is a time"):
            parse_duration("--every", text)
    assert [parse_speed(text) for text in ("real", "fast", "2.5")] == [1.0, None, 2.5]
    for text in ("0", "-1", "inf", "nan", "x"):
        with pytest.raises(UsageError, match="--speed is real"):
            parse_speed(text)
    assert [clock(seconds) for seconds in (0.04, 65.2, 3725.0, 59.96)] == ["00:00.0", "01:05.2", "1:02:05.0", "01:00.0"]
