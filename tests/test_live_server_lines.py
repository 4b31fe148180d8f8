"""`examples/live_server.py` with lines of text, which clients send as JSON."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from tests.test_live_server import IMAGE, Served, closing, received, serve, until
from websockets.exceptions import ConnectionClosed

import omnisift
from omnisift.media.piece_bytes import image_message

WRONG = [
    ["x", 1, "a"], [0, 1, 5], [0, 10**400, "a"], [float("nan"), 1, "a"], [0, 1, "<|im_end|>"], [2, 1, "a"],
    [0, 1, "a" * 3000], [[], {}, None],
]  # fmt: skip


def test_lines_reach_the_stream() -> None:
    """Mistaken ones are answered with one line, and the stream continues."""
    pipe = omnisift.load("nano", compressor="none")

    async def test(served: Served) -> None:
        socket = await served.ready(audio=False)
        await socket.send(json.dumps({"line": [1.5, 2.0, "Good morning."]}))
        for line in WRONG:
            await socket.send(json.dumps({"line": line}))
            message = (await received(socket, "error"))["error"]
            assert "\n" not in message
            assert message
        for number in range(6):
            await socket.send(image_message(number / 2, IMAGE))
        await until(lambda: served.server.sessions and streams[0].report.units == 1)
        words = pipe.host.processor.tokenizer("Good morning.\n")["input_ids"]
        assert streams[0].report.text_tokens == len(words)
        await socket.send(json.dumps({"ask": "Who?"}))
        assert "answer" in await received(socket, "answer")

    streams: list[omnisift.StreamSession] = []

    class Noted:
        def stream(self, **options: Any) -> omnisift.StreamSession:
            streams.append(pipe.stream(**{**options, "keep": omnisift.KeepAll()}))
            return streams[-1]

    serve(test, Noted())


def test_too_many_lines_close_the_connection() -> None:
    async def test(served: Served) -> None:
        socket = await served.ready()
        with suppress(ConnectionClosed):
            for _ in range(200):
                await socket.send(json.dumps({"line": [0, 1, "hello"]}))
        assert (await closing(socket))[0] == 4429

    serve(test, pieces_per_second=2.0)
