"""`examples/live_server.py` over loopback: token, limits, backpressure, answers."""

from __future__ import annotations

import asyncio
import json
import runpy
import struct
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.media.test_piece_bytes import encoded, picture
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

import omnisift
from omnisift.errors import UsageError
from omnisift.media.piece_bytes import image_message, samples_message

EXAMPLE = Path(__file__).parents[1] / "examples" / "live_server.py"
MODULE = SimpleNamespace(**runpy.run_path(str(EXAMPLE), run_name="live_server"))
Limits, LiveServer = MODULE.Limits, MODULE.LiveServer
TOKEN = "a token"
IMAGE = encoded(picture())


class FakeStream:
    """Feeds while ``open`` is set."""

    def __init__(self, audio: bool | None) -> None:
        if audio not in (True, False, None):
            raise UsageError("audio must be true, false or None")
        self.audio, self.seconds, self.fed, self.forgotten = audio, 0.0, [], 0
        self.open, self.may_answer, self.closed = Event(), Event(), Event()
        self.open.set()
        self.may_answer.set()

    @property
    def report(self) -> Any:
        return SimpleNamespace(seconds=self.seconds, held_tokens=10 * len(self.fed), held_seconds=self.seconds)

    def feed(self, piece: omnisift.Piece | omnisift.Line) -> None:
        assert self.open.wait(20)
        self.fed.append(piece)
        self.seconds = piece.start if isinstance(piece, omnisift.Line) else piece.time

    def ask(self, question: str, *, follow_up: bool, max_new_tokens: int) -> Any:
        if question == "fail":
            raise RuntimeError
        if not question.strip():
            raise UsageError("the question is empty")
        assert self.may_answer.wait(20)
        text = f"{question} {len(self.fed)} {follow_up} {max_new_tokens}"
        return SimpleNamespace(text=text, time=self.seconds, report=self.report)

    def forget(self) -> None:
        self.forgotten += 1

    def close(self) -> None:
        self.closed.set()


class FakePipeline:
    def __init__(self) -> None:
        self.streams: list[FakeStream] = []

    def stream(self, *, keep: object, audio: bool | None) -> FakeStream:
        self.streams.append(FakeStream(audio))
        return self.streams[-1]


class Served:
    """A server, and clients of it."""

    def __init__(self, address: str, server: Any, pipe: Any) -> None:
        self.address, self.server, self.pipe = address, server, pipe

    async def open(self, token: str | None = TOKEN, **hello: Any) -> ClientConnection:
        """A client that sent its first message; ``token`` goes there."""
        socket = await connect(self.address, compression=None)
        await socket.send(json.dumps({"token": token, **hello} if token is not None else hello))
        return socket

    async def ready(self, **hello: Any) -> ClientConnection:
        socket = await self.open(**hello)
        assert "ready" in await received(socket)
        return socket


async def received(socket: ClientConnection, name: str | None = None) -> dict[str, Any]:
    """The next message, or the next with this field."""
    while True:
        values: dict[str, Any] = json.loads(await asyncio.wait_for(socket.recv(), 20))
        if name is None or name in values:
            return values


async def closing(socket: ClientConnection) -> tuple[int, str]:
    """Code and reason with which the server closes."""
    with suppress(ConnectionClosed):
        while True:
            await asyncio.wait_for(socket.recv(), 20)
    return socket.close_code or 0, socket.close_reason or ""


async def until(holds: Callable[[], object]) -> None:
    for _ in range(4000):
        if holds():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("never happened")


def serve(test: Callable[[Served], Awaitable[None]], pipe: Any = None, **limits: Any) -> None:
    """Run a test against a server of its own."""

    async def run() -> None:
        server = LiveServer(pipe or FakePipeline(), TOKEN, Limits(**{"max_new_tokens": 8} | limits))
        listening = await server.start("127.0.0.1", 0)
        try:
            await test(Served(f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}", server, server.pipe))
        finally:
            for stream in getattr(server.pipe, "streams", []):
                stream.open.set()
                stream.may_answer.set()
            listening.close()
            await listening.wait_closed()
            server.worker.shutdown()

    asyncio.run(run())


def test_a_model_answers_while_pieces_come() -> None:
    """The answers are those of the library's own stream."""
    pipe = omnisift.load("nano", retain=0.25)
    rng = np.random.default_rng(0)
    images = [np.full((56, 56, 3), rng.integers(0, 256, 3), np.uint8) for _ in range(8)]
    messages = [image_message(number / 2, encoded(image)) for number, image in enumerate(images)]
    sound = [rng.normal(0, 0.1, 8000).astype(np.float32) for _ in images]
    messages += [samples_message(number / 2, samples) for number, samples in enumerate(sound)]
    messages.sort(key=lambda message: struct.unpack("<dB", message[:9]))

    async def test(served: Served) -> None:
        socket = await served.ready(live=False, audio=True)
        for message in messages:
            await socket.send(message)
        await socket.send(json.dumps({"ask": "What colour is the circle?"}))
        answer = await received(socket, "answer")
        with pipe.stream(audio=True) as stream:
            for message in messages:
                stream.feed(MODULE.piece_from_bytes(message))
            expected = stream.ask("What colour is the circle?", max_new_tokens=8)
        assert (answer["answer"], answer["time"]) == (expected.text, expected.time)
        assert answer["latency"] > 0
        assert answer["status"]["held_tokens"] == expected.report.held_tokens > 0
        assert answer["status"]["behind_seconds"] == answer["status"]["dropped_seconds"] == 0
        await socket.close()
        await until(lambda: served.server.sessions == 0)

    serve(test, pipe)


def test_a_wrong_token_is_refused() -> None:
    async def test(served: Served) -> None:
        for token in ("", "a tokeN", "a token ", None, "ä", "x" * 1000):
            assert await closing(await served.open(token)) == (4401, "wrong token")
        for header in ("Bearer wrong", "", "Basic a token"):
            with pytest.raises(InvalidStatus) as caught:
                await connect(served.address, additional_headers={"Authorization": header})
            assert caught.value.response.status_code == 401
        async with connect(served.address, additional_headers={"Authorization": f"Bearer {TOKEN}"}) as socket:
            await socket.send("{}")
            assert "ready" in await received(socket)
        await until(lambda: served.server.connections == 0)
        assert len(served.pipe.streams) == 1

    serve(test)


def test_messages_over_the_limit_close_the_connection() -> None:
    async def test(served: Served) -> None:
        socket = await served.ready()
        await socket.send(image_message(0.0, bytes(3000)))
        code, reason = await closing(socket)
        assert code == 1009
        assert "2000" in reason
        socket = await served.ready()
        await socket.send(json.dumps({"ask": "x" * 1500}))
        assert "1500 characters" in (await received(socket))["error"]

    serve(test, message_bytes=2000)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("{", "JSON object"),
        ("[1]", "JSON object"),
        ("[" * 5000, "JSON object"),
        ("x" * 9000, "short JSON object"),
        (json.dumps({"ask": 5}), "ask"),
        (json.dumps({"ask": "x", "more": 1}), "ask"),
        (json.dumps({"forget": False}), "forget"),
        (json.dumps({"line": "hello"}), "line"),
        (json.dumps({"line": [0, 1]}), "line"),
        (json.dumps({"line": [0, 1, "hello"], "more": 1}), "line"),
        (b"x", "1 bytes"),
        (image_message(0.0, b"no image"), "JPEG or PNG"),
        (image_message(float("nan"), b"x"), "nan"),
        (struct.pack("<dB", 0.0, 7) + b"x", "kind of a piece"),
        (samples_message(0.0, np.zeros(160_001, np.float32)), "10.0 s of samples"),
    ],
)
def test_wrong_messages_close_the_connection(message: str | bytes, says: str) -> None:
    async def test(served: Served) -> None:
        socket = await served.ready()
        await socket.send(message)
        code, reason = await closing(socket)
        assert code == 4400
        assert says in reason
        await until(lambda: served.server.sessions == 0)
        assert served.pipe.streams[0].closed.is_set()

    serve(test)


@pytest.mark.parametrize("hello", [{"more": 1}, {"audio": "yes"}])
def test_wrong_first_messages(hello: dict[str, Any]) -> None:
    async def test(served: Served) -> None:
        assert (await closing(await served.open(**hello)))[0] == 4400
        assert served.server.sessions == 0

    serve(test)


def test_many_streams_are_refused() -> None:
    async def test(served: Served) -> None:
        first, second = await served.ready(), await served.ready()
        assert await closing(await served.open()) == (1013, "all 2 streams are taken; try again later")
        await first.close()
        await until(lambda: served.server.sessions == 1)
        await served.ready()
        await second.send(image_message(0.0, IMAGE))
        await second.send(json.dumps({"ask": "Who?"}))
        assert (await received(second, "answer"))["answer"].startswith("Who?")
        strangers = [await connect(served.address) for _ in range(6)]
        with pytest.raises(InvalidStatus) as caught:
            await connect(served.address)
        assert caught.value.response.status_code == 503
        for stranger in strangers:
            await stranger.close()

    serve(test, sessions=2)


def test_who_says_nothing_is_disconnected() -> None:
    async def test(served: Served) -> None:
        assert await closing(await connect(served.address)) == (4408, "no first message for 0.2 s")
        socket = await served.ready()
        assert await closing(socket) == (4408, "no message for 0.1 s")
        await until(lambda: served.server.sessions == 0)
        assert served.pipe.streams[0].closed.is_set()

    serve(test, hello_seconds=0.2, idle_seconds=0.1)


def test_too_many_pieces_per_second() -> None:
    async def test(served: Served) -> None:
        socket = await served.ready()
        with suppress(ConnectionClosed):
            for _ in range(22):
                await socket.send(image_message(0.0, IMAGE))
        assert await closing(socket) == (4429, "more than 10 pieces per second")

    serve(test, pieces_per_second=10)


def test_a_live_client_that_overruns_loses_the_oldest_pieces_and_is_told() -> None:
    async def test(served: Served) -> None:
        socket = await served.ready()
        stream = served.pipe.streams[0]
        stream.open.clear()
        for number in range(21):
            await socket.send(image_message(number / 2, IMAGE))
        await socket.send(json.dumps({"ask": "x" * 1001}))
        assert "1001 characters" in (await received(socket, "error"))["error"]  # so all pieces were received
        stream.open.set()
        await until(lambda: len(stream.fed) == 1 + 5)
        assert [piece.time for piece in stream.fed] == [0.0, 8.0, 8.5, 9.0, 9.5, 10.0]
        await socket.send(json.dumps({"ask": "What?", "follow_up": True}))
        answer = await received(socket, "answer")
        assert answer["answer"] == "What? 6 True 8"
        assert answer["status"]["dropped_seconds"] == 7.5
        assert answer["status"]["behind_seconds"] == 0

    serve(test, queued_seconds=2.0)


def test_the_client_of_a_file_waits() -> None:
    """The server stops reading; nothing is dropped, and a question is about all that was sent."""

    async def test(served: Served) -> None:
        socket = await served.ready(live=False)
        stream = served.pipe.streams[0]
        stream.open.clear()
        padded = IMAGE + bytes(300_000)  # what follows an image is ignored
        sent = 0

        async def send() -> None:
            nonlocal sent
            for number in range(100):
                await socket.send(image_message(number / 2, padded))
                sent += 1
            await socket.send(json.dumps({"ask": "What?"}))

        sending = asyncio.create_task(send())
        await asyncio.sleep(0.5)
        before = sent
        await asyncio.sleep(0.5)
        assert sent == before < 90
        stream.open.set()
        assert (await received(socket, "answer"))["answer"] == "What? 100 False 8"
        await sending
        assert [piece.time for piece in stream.fed] == [number / 2 for number in range(100)]

    serve(test, queued_seconds=2.0)


def test_mistaken_questions_and_forgetting() -> None:
    async def test(served: Served) -> None:
        socket = await served.ready()
        stream = served.pipe.streams[0]
        await socket.send(json.dumps({"ask": " "}))
        assert (await received(socket, "error"))["error"] == "the question is empty"
        await socket.send(json.dumps({"forget": True}))
        assert await received(socket, "forgotten") == {"forgotten": True}
        assert stream.forgotten == 1
        stream.may_answer.clear()
        for _ in range(2):
            await socket.send(json.dumps({"ask": "Who?"}))
        assert "a question is being answered" in (await received(socket, "error"))["error"]
        stream.may_answer.set()
        assert (await received(socket, "answer"))["answer"] == "Who? 0 False 8"

    serve(test)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_failure_of_the_model_ends_one_stream() -> None:
    async def test(served: Served) -> None:
        socket, other = await served.ready(), await served.ready()
        await socket.send(json.dumps({"ask": "fail"}))
        assert await closing(socket) == (1011, "the model failed")
        await other.send(json.dumps({"ask": "Who?"}))
        assert (await received(other, "answer"))["answer"] == "Who? 0 False 8"

    serve(test)


def test_the_event_loop_is_never_blocked() -> None:
    """While the model works for one client, another connects and is refused or served."""

    async def test(served: Served) -> None:
        socket = await served.ready()
        stream = served.pipe.streams[0]
        stream.open.clear()
        await socket.send(image_message(0.0, IMAGE))
        assert await closing(await served.open("wrong")) == (4401, "wrong token")
        stream.open.set()

    serve(test)


@pytest.mark.slow
def test_the_load_script_measures(tmp_path: Path) -> None:
    """Two streams for three seconds: every question is answered, nothing is dropped."""
    script = EXAMPLE.parents[1] / "benchmarks" / "speed" / "live_load.py"
    options = ["--streams", "2", "--minutes", "0.05", "--every", "1", "--out", str(tmp_path / "result.json")]
    subprocess.run([sys.executable, str(script), *options], check=True, timeout=200)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["bench"] == "live_load"
    assert result["answers"] == result["asked"] >= 2
    assert (result["errors"], result["dropped_s"]) == (0, 0)
    assert result["held_tokens_max"] > 0
    assert 0 < result["latency_s"]["p50"] <= result["latency_s"]["max"]
    assert result["commit"]
