"""Mutated URLs and redirects against a canary, broken answers of hosts, and mutated requests to the page."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fuzz.conftest import Fuzz
from tests.serving.test_url_policy import FORGED, HOST, forged
from tests.serving.web import Canary, listening, moved, public, resolve, response
from tests.ui.asgi import exchange

from omnisift.errors import MediaError
from omnisift.serving.body_limit import BodyLimit
from omnisift.serving.fetch import fetch
from omnisift.serving.fetch_limits import FetchLimits
from omnisift.serving.url_policy import check_url
from omnisift.ui.known_hosts import KnownHosts
from omnisift.ui.request_filter import RequestFilter
from omnisift.ui.uploads import Uploads

pytestmark = [pytest.mark.slow, pytest.mark.fuzz]

PIECES = (
    *(
        "\\",
        "/",
        "//",
        "@",
        ":",
        "#",
        "?",
        "%",
        "%2f",
        "%5c",
        "%40",
        "%00",
        "[",
        "]",
        ".",
        "..",
        ";",
        "&",
        "=",
        "|",
        "~",
    ),
    *(
        " ",
        "\t",
        "\n",
        "\r",
        "\r\n",
        "\x00",
        "\x7f",
        "\u00a0",
        "\u2028",
        "\u3000",
        "\uff0f",
        "\uff20",
        "\u3002",
        "\u00ad",
    ),
    *(
        "http:",
        "https://",
        "HTTP://",
        "file:",
        "\ud800",
        "\u0131",
        "\u212a",
        "u:p@",
        HOST,
        "{me}",
        "127.0.0.1",
        "[::1]",
    ),
    *(
        "localhost",
        "0177.0.0.1",
        "2130706433",
        "{port}",
        ":80",
        ":{port}",
        ":0",
        ":99999",
        "xn--",
        "e\u0301",
        "A" * 300,
    ),
)


def mutated(rng: random.Random, text: str, pieces: tuple[str, ...] = PIECES) -> str:
    """A few cuts, doubled parts and inserted pieces."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randint(0, len(text))
        end = min(len(text), start + rng.randint(0, 5))
        middle = rng.choice(["", text[start:end] * 2, rng.choice(pieces), text[start:end].swapcase()])
        text = text[:start] + middle + text[end:]
    return text


def fetched(url: str, limits: FetchLimits) -> bytes | None:
    """The content, or None after one typed error of one line."""
    try:
        return fetch(url, {HOST}, limits)
    except MediaError as error:
        text = str(error)
    assert "\n" not in text
    return None


@pytest.fixture
def canary() -> Iterator[Canary]:
    with listening() as canary, listening("::1", canary.port) as other:
        other.seen = canary.seen
        yield canary


def test_urls_reach_nothing(fuzz: Fuzz, canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    """The allowed name leads to this machine or to a public address, in turns: only typed errors, and no connection."""
    limits = FetchLimits(fetch_timeout=5.0)
    connected: list[Any] = []
    monkeypatch.setattr(socket.socket, "connect", lambda line, address: connected.append(address) or refuse())
    for seed in fuzz:
        rng = random.Random(seed)
        addresses = [["93.184.215.14"], ["127.0.0.1"], ["93.184.215.14", "::1"]][seed % 3]
        resolve(monkeypatch, addresses, ["127.0.0.1"])
        url = forged(mutated(rng, rng.choice([*FORGED, "http://{host}/a.mp4", "https://{host}:80/x?y"])), canary)
        with fuzz.case(f"seed {seed}: {url[:200]!r}"):
            connected.clear()
            assert fetched(url, limits) is None
            assert {address[0] for address in connected} <= {"93.184.215.14"}
            assert canary.count() == 0


def refuse() -> None:
    raise ConnectionRefusedError


def test_what_is_requested_is_what_was_checked(fuzz: Fuzz, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server sees one request line and the Host header of the allowed name, whatever passes the check."""
    public(monkeypatch, "127.0.0.1")
    resolve(monkeypatch, ["127.0.0.1"])
    heads: list[str] = []

    def reply(head: str, line: socket.socket) -> None:
        heads.append(head)
        line.sendall(response(b"x"))

    with listening() as web:
        web.reply = reply
        for seed in fuzz:
            rng = random.Random(seed)
            url = mutated(rng, f"http://{HOST}:{web.port}/a/b.mp4?c=d&e#f").replace("{port}", str(web.port))
            with fuzz.case(f"seed {seed}: {url[:200]!r}"):
                heads.clear()
                try:
                    address = check_url(url, {HOST})
                    if address.port != web.port or address.scheme != "http":
                        continue
                    assert fetch(url, {HOST}, FetchLimits(fetch_timeout=5.0)) == b"x"
                except MediaError:
                    continue
                (head,) = heads
                line, *fields = head.split("\r\n")
                assert line == f"GET {address.target} HTTP/1.1"
                assert [field for field in fields if field.lower().startswith("host:")] == [f"Host: {HOST}:{web.port}"]
                assert len(fields) == 6, fields


def test_answers_of_hosts(fuzz: Fuzz, canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutated answers and redirects: content, or one typed error within the time; the canary sees nothing."""
    public(monkeypatch, "127.0.0.2")
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;x=y\r\nyou\r\n0\r\nT: u\r\n\r\n"
    seeds = [response(b"hello" * 50), chunked, moved("http://{me}/"), moved("/x"), b"HTTP/1.0 200\r\n\r\nhello"]
    limits = FetchLimits(max_media=1, fetch_timeout=3.0, max_redirects=3)
    with listening("127.0.0.2") as web:
        for seed in fuzz:
            rng = random.Random(seed)
            resolve(monkeypatch, ["127.0.0.2"], ["127.0.0.2"], ["127.0.0.1"])
            text = forged(
                mutated(rng, rng.choice(seeds).decode("latin-1"), (*PIECES, "-1", "9" * 30, "\r\n\r\n")), canary
            )
            reply = text.encode("latin-1", "replace") + bytes(rng.choice([0, 0, 3 << 20]))
            web.reply = lambda head, line, reply=reply: line.sendall(reply)
            with fuzz.case(f"seed {seed}: {reply[:200]!r}"):
                content = fetched(f"http://{HOST}:{web.port}/", limits)
                assert content is None or len(content) <= limits.max_bytes
                assert canary.count() == 0


VALUES = (
    *(None, True, 0, -1, 10**30, 1e308, float("nan"), "", "x", "\ud800", "http://127.0.0.1/x", "file:///etc/passwd"),
    *([], {}, [[]], {"path": "https://x/y"}, {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}),
)
PATHS = (
    *("/", "/config", "/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/cancel", "/gradio_api/upload"),
    *("/gradio_api/file=/a.mp4", "/gradio_api/heartbeat/abc", "/gradio_api/proxy=http://x", "/gradio_api/run/predict"),
)
FIELDS = ("host", "origin", "sec_fetch_site", "sec_fetch_mode", "content_length", "transfer_encoding", "content_type")
TEXTS = (
    *(
        "127.0.0.1:7860",
        "localhost",
        "[::1]:7860",
        "evil.example",
        "http://127.0.0.1:7860",
        "http://evil.example",
        "null",
    ),
    *("same-origin", "cross-site", "none", "navigate", "chunked", "0", "10", "9" * 400, "application/json", "", None),
)


class Gradio:
    """Reads the body as Gradio does, and fails at random."""

    def __init__(self) -> None:
        self.rng, self.got = random.Random(0), (b"", {})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", scope["method"] == "POST"
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.got = (body, {key.decode(): value.decode("latin-1") for key, value in scope["headers"]})
        if self.rng.random() < 0.2:
            raise self.rng.choice([KeyError("fn"), RecursionError("deep"), ValueError("a\nb"), RuntimeError("left")])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"[]"})


def body_of(rng: random.Random) -> bytes:
    body: dict[str, Any] = {"data": [rng.choice(VALUES) for _ in range(7)], "fn_index": rng.choice([2, *VALUES])}
    text = json.dumps({**body, "session_hash": rng.choice(["abc", *VALUES]), "event_data": rng.choice(VALUES)})
    depth = rng.choice([0, 0, 10, 100, 20000])
    text = rng.choice([text, "[" * depth + text + "]" * depth, '{"a":' * depth + text, mutated(rng, text)])
    return text.encode("utf-8", "surrogatepass")[: 1 << 17]


def test_requests_to_the_page(fuzz: Fuzz, tmp_path: Path) -> None:
    """No exception leaves the filter; what passes has a known host, no foreign origin, and a flat body without URLs."""
    inner = Gradio()
    app = RequestFilter(inner, KnownHosts.of("127.0.0.1"), Uploads(tmp_path, 1000, 3000))
    for seed in fuzz:
        rng = inner.rng = random.Random(seed)
        method, path = rng.choice(["GET", "POST", "POST", "PUT"]), rng.choice(PATHS)
        if rng.random() < 0.2:
            path = mutated(rng, path)
        headers = {name: rng.choice(TEXTS) for name in rng.sample(FIELDS, rng.randint(0, 3))}
        if rng.random() < 0.2:
            headers["host"] = mutated(rng, "127.0.0.1:7860").encode("latin-1", "replace").decode("latin-1")
        body = body_of(rng)
        with fuzz.case(f"seed {seed}: {method} {path[:80]!r} {headers} {body[:80]!r}"):
            inner.got = (b"", {})
            answer = asyncio.run(exchange(app, method, path, body, **headers))
            assert answer.status in (200, 400, 403, 411, 413, 415)
            got, sent = inner.got
            if sent:
                assert re.fullmatch(r"(127\.0\.0\.1|localhost|\[[0:]*1\])(:\d*)?", sent["host"].lower())
                assert sent.get("origin", f"http://{sent['host']}") == f"http://{sent['host']}"
                assert sent.get("sec-fetch-site", "none") in ("none", "same-origin")
                assert method != "POST" or "upload" in path or got.count(b"[") < 70000


def test_sizes_of_requests_to_the_server(fuzz: Fuzz) -> None:
    """Whatever size a request announces, the application reads no more than the limit."""
    limits = FetchLimits(max_media=0)  # a megabyte of text stays
    inner = Gradio()
    app = BodyLimit(inner, limits)
    for seed in fuzz:
        rng = inner.rng = random.Random(seed)
        size = rng.choice([0, 10, limits.max_body_bytes, limits.max_body_bytes + rng.randint(1, 1 << 20)])
        length = rng.choice([str(size), str(rng.randint(0, size)), *TEXTS])
        with fuzz.case(f"seed {seed}: {size} {length!r}"):
            try:
                answer = asyncio.run(exchange(app, "POST", "/v1/chat/completions", bytes(size), content_length=length))
            except (KeyError, RecursionError, ValueError, RuntimeError):
                assert size <= limits.max_body_bytes  # an error of the application
                continue
            announced = (length or "").isascii() and (length or "").isdecimal() and int(length or 0)
            assert answer.status == (413 if max(size, announced or 0) > limits.max_body_bytes else 200)
            assert len(inner.got[0]) <= limits.max_body_bytes
