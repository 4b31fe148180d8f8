"""Serve live streams over WebSocket: clients send images and samples, and ask about them at any moment.

    pip install websockets
    OMNISIFT_TOKEN=... python examples/live_server.py --port 8765          # the bundled model
    OMNISIFT_TOKEN=... python examples/live_server.py --model Qwen/Qwen2.5-Omni-7B --device cuda

Without OMNISIFT_TOKEN the server makes a token and prints it. It listens at 127.0.0.1 without TLS; put a proxy with a
certificate in front of it before other machines use it. The library `websockets` is maintained, needs no other package,
and stops reading a socket while its own queue is full.

A client sends, after connecting (with `Authorization: Bearer TOKEN`, or the token in the first message):

    {"token": "...", "audio": true, "live": true}     first; live false is a file: nothing is dropped, the client waits
    binary: time (float64, seconds), kind (1 byte), content; little-endian, `omnisift.media.piece_bytes`
        kind 0: a JPEG or PNG image; kind 1: int16 samples of one channel at 16 kHz
    {"line": [1.5, 3.0, "Good morning."]}             a line of text: when it begins and ends, in seconds, and its words
    {"ask": "What is heard?", "follow_up": false}     one question at a time
    {"forget": true}                                  ends the dialogue that follow_up continues

and gets JSON: {"ready": limits}, {"status": ...} once a second, {"answer": text, "time": seconds, "latency": seconds,
"status": ...}, {"forgotten": true}, and {"error": "..."} for a question that can't be answered, or a line that can't be
read. `status` has seconds, held_tokens, held_seconds, behind_seconds and dropped_seconds. The connection is closed with
4400 for messages that are wrong, 4401 without the token, 4408 when idle, 4429 for too many pieces and lines, 1009 for a
message that is too large, and 1013 when all streams are taken.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import http
import json
import os
import secrets
import signal
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

import omnisift
from omnisift.errors import OmniSiftError
from omnisift.media import MAX_PIECE_BYTES, message_time, piece_from_bytes


@dataclass(frozen=True)
class Limits:
    """What clients may use."""

    sessions: int = 8
    hello_seconds: float = 5.0
    """For the first message, with the token."""
    idle_seconds: float = 30.0
    """Without a message."""
    message_bytes: int = MAX_PIECE_BYTES
    image_pixels: int = 1280 * 720
    pieces_per_second: float = 40.0
    """On average over a few seconds."""
    queued_seconds: float = 8.0
    """Of the stream, that wait for the model."""
    queued_pieces: int = 200
    question_characters: int = 1000
    max_new_tokens: int = 64


class Refused(Exception):
    """The client's fault: the code and the reason with which its connection is closed."""


class Client:
    """One connection and its stream. Everything runs in the event loop except the calls of `work`."""

    def __init__(self, server: LiveServer, socket: ServerConnection, stream: Any, is_live: bool) -> None:
        self.server, self.limits, self.socket = server, server.limits, socket
        self.stream, self.is_live, self.report = stream, is_live, None
        self.waiting: deque[tuple[float, bytes]] = deque()
        self.changed = asyncio.Condition()
        self.latest, self.dropped, self.is_feeding, self.told = 0.0, 0.0, False, 0.0
        self.allowance, self.counted = 2 * self.limits.pieces_per_second, time.monotonic()
        self.question: asyncio.Task[None] | None = None

    def status(self) -> dict[str, float]:
        """The state of the stream, as clients see it."""
        report, behind = self.report, max(0.0, self.latest - self.report.seconds)
        values = {"seconds": report.seconds, "held_tokens": report.held_tokens, "held_seconds": report.held_seconds}
        return {**values, "behind_seconds": round(behind, 3), "dropped_seconds": round(self.dropped, 3)}

    async def send(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def run(self) -> None:
        """Read messages until the client leaves; the pieces are fed by a task of their own."""
        self.report = await self.server.work(lambda: self.stream.report)
        feeding = asyncio.create_task(self.feed())
        reading = asyncio.create_task(self.read())
        try:
            await self.send(ready=asdict(self.limits))
            done, _ = await asyncio.wait({feeding, reading}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            tasks = [feeding, reading, *([] if self.question is None else [self.question])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.server.work(self.stream.close)

    async def read(self) -> None:
        while True:
            try:
                message = await asyncio.wait_for(self.socket.recv(), self.limits.idle_seconds)
            except asyncio.TimeoutError:
                raise Refused(4408, f"no message for {self.limits.idle_seconds:g} s") from None
            if isinstance(message, bytes):
                await self.queue(message)
            else:
                await self.command(parsed(message, self.limits))

    def count(self) -> None:
        """Count a piece or a line, of which a live client may send so many."""
        rate, now = self.limits.pieces_per_second, time.monotonic()
        self.allowance = min(2 * rate, self.allowance + (now - self.counted) * rate) - 1
        self.counted = now
        if self.allowance < 0 and self.is_live:
            raise Refused(4429, f"more than {rate:g} pieces per second")

    async def queue(self, message: bytes) -> None:
        """Let a piece wait for the model. A file's client waits with it; a live one loses its oldest pieces."""
        self.count()
        at = message_time(message)
        async with self.changed:
            while not self.is_live and self.is_full(at):
                await self.changed.wait()  # meanwhile nothing is read, and the client's socket fills
            self.waiting.append((at, message))
            self.latest = max(self.latest, at)
            while len(self.waiting) > 1 and self.is_live and self.is_full(at):
                dropped, _ = self.waiting.popleft()
                self.dropped += max(0.0, self.waiting[0][0] - dropped)
            self.changed.notify_all()

    def is_full(self, at: float) -> bool:
        limits, waiting = self.limits, self.waiting
        return bool(waiting) and (len(waiting) > limits.queued_pieces or at - waiting[0][0] > limits.queued_seconds)

    async def feed(self) -> None:
        """Feed the stream with what waits, one piece at a time, so that other clients get their turn."""
        while True:
            async with self.changed:
                await self.changed.wait_for(lambda: self.waiting)
                (_, message), self.is_feeding = self.waiting.popleft(), True
            self.report = await self.server.work(self.read_piece, message)
            async with self.changed:
                self.is_feeding = False
                self.changed.notify_all()
            if time.monotonic() - self.told >= 1:
                self.told = time.monotonic()
                await self.send(status=self.status())

    def read_piece(self, message: bytes) -> Any:
        self.stream.feed(piece_from_bytes(message, self.limits.image_pixels))
        return self.stream.report

    async def command(self, values: dict[str, Any]) -> None:
        if values.keys() <= {"ask", "follow_up"} and isinstance(values.get("ask"), str):
            if self.question is not None and not self.question.done():
                await self.send(error="a question is being answered; wait for its answer")
                return
            if not self.is_live:
                async with self.changed:  # about all that a file's client has sent
                    await self.changed.wait_for(lambda: not self.waiting and not self.is_feeding)
            self.question = asyncio.create_task(self.ask(values["ask"], bool(values.get("follow_up", False))))
        elif values.keys() == {"line"} and isinstance(values["line"], list) and len(values["line"]) == 3:
            self.count()
            try:  # the stream keeps it until the images of its time
                await self.server.work(self.stream.feed, omnisift.Line(*values["line"]))
            except OmniSiftError as error:
                await self.send(error=str(error))
        elif values == {"forget": True}:
            await self.server.work(self.stream.forget)
            await self.send(forgotten=True)
        else:
            raise Refused(4400, 'send {"ask": "..."}, {"line": [start, end, "..."]} or {"forget": true}')

    async def ask(self, question: str, follow_up: bool) -> None:
        """Answer a question about what the model has read."""
        begin, limit = time.monotonic(), self.limits.question_characters
        if len(question) > limit:
            await self.send(error=f"the question has {len(question)} characters; the maximum is {limit}")
            return
        options = {"follow_up": follow_up, "max_new_tokens": self.limits.max_new_tokens}
        try:
            answer = await self.server.work(lambda: self.stream.ask(question, **options))
        except OmniSiftError as error:
            await self.send(error=str(error))
            return
        except Exception:
            await self.socket.close(1011, "the model failed")
            raise
        self.report, latency = answer.report, round(time.monotonic() - begin, 3)
        await self.send(answer=answer.text, time=answer.time, latency=latency, status=self.status())


def parsed(message: str | bytes, limits: Limits) -> dict[str, Any]:
    """The JSON object of a text message."""
    if isinstance(message, bytes) or len(message) > 8 * limits.question_characters:
        raise Refused(4400, "this message must be a short JSON object")
    try:
        values = json.loads(message)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise Refused(4400, "this message must be a JSON object")
    return values


class LiveServer:
    """The model, its one worker thread, and the clients."""

    def __init__(self, pipe: omnisift.Pipeline, token: str, limits: Limits, keep: Any = None) -> None:
        self.pipe, self.limits, self.keep = pipe, limits, keep
        self.token = token.encode()
        self.sessions, self.connections = 0, 0
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def work(self, function: Any, *arguments: Any) -> Any:
        """Call a function of the model in its thread. It is finished even if the caller is cancelled."""
        return await asyncio.get_running_loop().run_in_executor(self.worker, function, *arguments)

    def is_token(self, given: object) -> bool:
        return isinstance(given, str) and hmac.compare_digest(given.encode(errors="replace"), self.token)

    def check_request(self, socket: ServerConnection, request: Any) -> Any:
        """Refuse a connection with a wrong token in its header, and too many connections that have not sent theirs."""
        header = request.headers.get("Authorization")
        socket.has_token = header is not None
        if header is not None and not self.is_token(header.removeprefix("Bearer ")):
            return socket.respond(http.HTTPStatus.UNAUTHORIZED, "wrong token\n")
        if self.connections >= 4 * self.limits.sessions:
            return socket.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "too many connections\n")
        return None

    async def handle(self, socket: ServerConnection) -> None:
        """Serve one connection from its first message to its end."""
        self.connections += 1
        try:
            await self.serve_client(socket)
        except Refused as error:
            await socket.close(*error.args)
        except OmniSiftError as error:
            await socket.close(4400, str(error).encode()[:120].decode(errors="ignore"))
        except ConnectionClosed:
            pass  # the client left
        finally:
            self.connections -= 1

    async def serve_client(self, socket: ServerConnection) -> None:
        try:
            hello = parsed(await asyncio.wait_for(socket.recv(), self.limits.hello_seconds), self.limits)
        except asyncio.TimeoutError:  # that of Python 3.10 is no TimeoutError
            raise Refused(4408, f"no first message for {self.limits.hello_seconds:g} s") from None
        if not (socket.has_token or self.is_token(hello.get("token"))):
            raise Refused(4401, "wrong token")
        if not hello.keys() <= {"token", "audio", "live"}:
            raise Refused(4400, 'the first message is {"token": "...", "audio": true, "live": true}')
        if self.sessions >= self.limits.sessions:
            raise Refused(1013, f"all {self.limits.sessions} streams are taken; try again later")
        self.sessions += 1
        try:
            stream = await self.work(lambda: self.pipe.stream(keep=self.keep, audio=hello.get("audio")))
            await Client(self, socket, stream, bool(hello.get("live", True))).run()
        finally:
            self.sessions -= 1

    async def start(self, host: str, port: int) -> Server:
        """Listen. Compression is off: images are compressed already, and small messages could unpack to large ones."""
        options: dict[str, Any] = {"max_size": self.limits.message_bytes, "max_queue": 4, "compression": None}
        options["close_timeout"] = 2  # a client that floods the server reads its close late
        return await serve(self.handle, host, port, process_request=self.check_request, **options)


async def main() -> None:
    parser = argparse.ArgumentParser(description="Serve live streams over WebSocket.")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--retain", type=float, default=0.25)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--sessions", type=int, default=Limits.sessions)
    options = parser.parse_args()
    token = os.environ.get("OMNISIFT_TOKEN") or secrets.token_urlsafe(24)
    pipe = omnisift.load(options.model, device=options.device, retain=options.retain)
    server = await LiveServer(pipe, token, Limits(sessions=options.sessions)).start(options.host, options.port)
    port = server.sockets[0].getsockname()[1]
    print(f"ws://{options.host}:{port}" + ("" if "OMNISIFT_TOKEN" in os.environ else f"  token {token}"), flush=True)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    server.close()
    await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(main())
