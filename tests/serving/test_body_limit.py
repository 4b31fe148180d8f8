"""The size of a request to the server, before and while it is read."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from contextlib import nullcontext
from typing import Any

import pytest

from omnisift.serving.body_limit import COLLECT_EVERY, MIDDLEWARE, BodyLimit
from omnisift.serving.fetch_limits import FetchLimits

LIMITS = FetchLimits(max_media=1)
LIMIT = LIMITS.max_body_bytes


def post(size: int, announced: str | None = None, reader: str = "reads", kind: str = "http") -> tuple[Any, int]:
    """Status (None without an answer), and the number of bytes that the application read."""
    read, left, sent = 0, size, []

    async def receive() -> dict[str, Any]:
        nonlocal left
        part = min(left, 1 << 16)
        left -= part
        return {"type": "http.request", "body": bytes(part), "more_body": left > 0}

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal read
        if reader == "answers first":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                if reader == "raises":
                    raise RuntimeError("the client left")
                break
            read += len(message["body"])
            if not message["more_body"]:
                break
        if reader != "answers first":
            await send({"type": "http.response.start", "status": 400 if read < size else 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    headers = [] if announced is None else [(b"content-length", announced.encode())]
    scope = {"type": kind, "headers": headers}
    asyncio.run(BodyLimit(app, LIMITS)(scope, receive, send))
    starts = [message for message in sent if message["type"] == "http.response.start"]
    assert len(starts) == 1
    if starts[0]["status"] == 413:
        assert "at most 1 MB" in json.loads(sent[-1]["body"])["error"]["message"]
    return starts[0]["status"], read


@pytest.mark.parametrize("size", [0, 1, LIMIT])
def test_requests_within_the_limit(size: int) -> None:
    assert post(size) == (200, size)
    assert post(size, str(size)) == (200, size)


def test_an_announced_size_is_refused_before_it_is_read() -> None:
    assert post(10, str(LIMIT + 1)) == (413, 0)
    assert post(10, "9" * 5000) == (413, 0)


@pytest.mark.parametrize("reader", ["reads", "raises"])
@pytest.mark.parametrize("announced", [None, "10", "x", "-1", "\u00b2", ""])
def test_a_size_that_was_not_announced_is_counted(announced: str | None, reader: str) -> None:
    status, read = post(LIMIT + (10 << 20), announced, reader)
    assert status == 413
    assert read <= LIMIT


def test_an_answer_that_began_is_left_alone() -> None:
    assert post(LIMIT + 1, None, "answers first")[0] == 200


def test_an_error_of_the_application_is_its_own() -> None:
    async def app(*_: Any) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        asyncio.run(BodyLimit(app, LIMITS)({"type": "http", "headers": []}, None, None))


@pytest.mark.parametrize("fails", [False, True])
def test_what_refers_to_itself_is_freed(fails: bool) -> None:
    """Also after a client that disconnects; small requests are counted together."""
    left_behind: list[weakref.ref[Any]] = []

    class Parser:
        def __init__(self, text: bytes) -> None:
            self.text, self.itself = text, self

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(LIMIT - 1), "more_body": True}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        left_behind.append(weakref.ref(Parser((await receive())["body"])))
        if fails:
            raise RuntimeError("the client left")

    async def requests(number: int) -> None:
        server = BodyLimit(app, LIMITS)
        for _ in range(number):
            with nullcontext() if not fails else pytest.raises(RuntimeError, match="left"):
                await server({"type": "http", "headers": []}, receive, None)

    number = COLLECT_EVERY // (LIMIT - 1) + 1
    gc.collect()
    gc.disable()
    try:
        asyncio.run(requests(number - 1))
        assert all(parser() for parser in left_behind), "they keep themselves alive"
        left_behind.clear()
        asyncio.run(requests(number))
        assert not any(parser() for parser in left_behind)
    finally:
        gc.enable()


def test_the_path_that_vllm_imports() -> None:
    module, _, name = MIDDLEWARE.rpartition(".")
    assert getattr(__import__(module, fromlist=[name]), name) is BodyLimit
