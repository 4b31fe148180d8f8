"""Requests the page does not make are refused before Gradio sees them."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.ui.asgi import Inner, request

from omnisift.ui.known_hosts import KnownHosts
from omnisift.ui.request_filter import MAX_BODY_BYTES, RequestFilter


def ask(path: str, body: bytes = b"", method: str = "GET", host: str = "127.0.0.1:7860", hosts=("127.0.0.1",)):
    """(status, headers, the body that reached the application or None)."""
    seen: list[bytes | None] = [None]
    sent: list[dict] = []

    async def app(scope, receive, send) -> None:
        seen[0] = (await receive())["body"] if method == "POST" else b""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": b""})

    parts = [body[place : place + 1000] for place in range(0, len(body), 1000)] or [b""]
    messages = [
        {"type": "http.request", "body": part, "more_body": number + 1 < len(parts)}
        for number, part in enumerate(parts)
    ]

    async def receive():
        return messages.pop(0)

    async def send(message) -> None:
        sent.append(message)

    scope = {"type": "http", "path": path, "method": method, "headers": [(b"host", host.encode())]}
    known = None if hosts is None else KnownHosts(frozenset(hosts))
    asyncio.run(RequestFilter(app, known)(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), seen[0]


ALLOWED = (
    *("/", "/config", "/theme.css", "/assets/index-1.js", "/gradio_api/queue/join", "/gradio_api/queue/data"),
    *("/gradio_api/upload", "/gradio_api/heartbeat/abc1", "/gradio_api/file=/folder/a b.mp4"),
)
REFUSED = (
    *("/gradio_api/file=http://example.org/x", "/gradio_api/file=https://10.0.0.1", "/gradio_api/file=file:///etc/x"),
    *("/gradio_api/file%3Dhttp%3A//example.org/x", "/gradio_api/proxy=http://example.org/x", "/login", "/monitoring"),
    *("/gradio_api/runs", "/gradio_api/run-history/connect", "/gradio_api/mcp/sse", "/gradio_api/run/predict"),
    *("/gradio_api/openapi.json", "/gradio_api/dev/reload", "/gradio_api/call/ask", "/x/assets/y", "/docs"),
)


@pytest.mark.parametrize("path", ALLOWED)
def test_requests_of_the_page_are_allowed(path: str) -> None:
    status, headers, _ = ask(path)
    assert status == 200
    assert b"connect-src 'self'" in headers[b"content-security-policy"]
    assert headers[b"x"] == b"y"


@pytest.mark.parametrize("path", REFUSED)
def test_all_other_requests_are_refused(path: str) -> None:
    assert ask(path)[0] == 403
    assert ask(path)[2] is None


def test_other_names_of_this_machine_are_refused() -> None:
    assert ask("/", host="evil.example:7860")[0] == 403
    assert ask("/", host="127.0.0.1")[0] == 200
    assert ask("/", host="evil.example", hosts=None)[0] == 200


def test_bodies_are_small_and_name_no_url() -> None:
    file = {"path": "/folder/clip.mp4", "url": "http://127.0.0.1/x"}
    good = json.dumps({"data": [file], "more": "x" * 3000}).encode()
    assert ask("/gradio_api/queue/join", good, "POST")[::2] == (200, good)
    bad = json.dumps({"data": [[{"a": {"path": "https://example.org/clip.mp4"}}]]}).encode()
    assert ask("/gradio_api/queue/join", bad, "POST")[::2] == (403, None)
    assert ask("/gradio_api/queue/join", b" " * (MAX_BODY_BYTES + 1), "POST")[::2] == (413, None)
    assert ask("/gradio_api/upload", b"x" * 10, "POST")[::2] == (200, b"x" * 10)


@pytest.mark.parametrize(
    "body",
    [
        *(b"[" * 60000, b'{"a":' * 10000, b"[" * 500 + b"]" * 500, b'{"data":' * 33 + b"1" + b"}" * 33),
        *(b"{", b"\xff", b"9" * 5000, b"[1,]", b"'a'", b"\x00", b"[" + b"9" * 60000 + b"]"),
    ],
)
@pytest.mark.parametrize("path", ["queue/join", "cancel", "reset"])
def test_deep_and_broken_bodies(path: str, body: bytes) -> None:
    assert ask(f"/gradio_api/{path}", body, "POST")[::2] == (400, None)


def test_an_error_of_the_application_is_an_answer_and_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """Such as Gradio's KeyError for an event that the page does not have."""
    inner = Inner(error=KeyError("a\nb"))
    answer = request(RequestFilter(inner), "POST", "/gradio_api/queue/join", b'{"fn_index": 999}')
    assert answer.status == 400
    assert answer.body == b"the page's server can't read this request; reload the page\n"
    assert caplog.messages == ["POST '/gradio_api/queue/join': KeyError"]


def test_only_http() -> None:
    seen, sent = [], []

    async def app(scope, receive, send) -> None:
        seen.append(scope["type"])

    async def send(message) -> None:
        sent.append(message)

    for kind in ("websocket", "lifespan"):
        asyncio.run(RequestFilter(app)({"type": kind, "path": "/"}, None, send))
    assert seen == ["lifespan"]
    assert sent == [{"type": "websocket.close", "code": 1008}]
