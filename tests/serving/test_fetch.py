"""Fetching over HTTP from servers on this machine: size, time, number at once, redirects, TLS, broken answers."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.serving.web import CONTENT, Canary, listening, moved, public, resolve, response

from omnisift import errors
from omnisift.serving import fetch as module
from omnisift.serving.fetch import fetch, submit
from omnisift.serving.fetch_limits import FetchLimits

HOST = "media.example"
LIMITS = FetchLimits(fetch_timeout=5.0, max_redirects=2)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Canary]:
    """A server under the name `HOST`."""
    public(monkeypatch, "127.0.0.1")
    resolve(monkeypatch, ["127.0.0.1"])
    with listening() as web:
        yield web


def get(web: Canary, path: str = "/x", limits: FetchLimits = LIMITS) -> bytes:
    return fetch(f"http://{HOST}:{web.port}{path}", {HOST}, limits)


def test_the_request(web: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    """One request for the path and query, without a proxy and without encodings."""
    heads: list[str] = []
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    def reply(head: str, line: socket.socket) -> None:
        heads.append(head)
        line.sendall(response(CONTENT))

    web.reply = reply
    assert get(web, "/clip-ä.mp4?a=1#part") == CONTENT
    (head,) = heads
    assert head.startswith("GET /clip-%C3%A4.mp4?a=1 HTTP/1.1\r\n")
    assert f"\r\nHost: {HOST}:{web.port}\r\n" in head
    assert "\r\nAccept-Encoding: identity\r\n" in head


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "reply",
    [
        response(CONTENT),
        b"HTTP/1.0 200 OK\r\n\r\n" + CONTENT,
        CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(CONTENT), CONTENT),
        b"HTTP/1.1 100 Continue\r\n\r\n" + response(CONTENT),
        response(CONTENT, "Content-Encoding: identity"),
    ],
)
def test_answers_that_hold_the_file(web: Canary, reply: bytes) -> None:
    web.reply = lambda head, line: line.sendall(reply)
    assert get(web) == CONTENT


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (response(CONTENT, status="404 Not Found"), errors.NotFound),
        (response(CONTENT, status="500 Internal Server Error"), errors.NotReadable),
        (response(CONTENT, status="206 Partial Content"), errors.NotReadable),
        (response(CONTENT, status="204 No Content"), errors.NotReadable),
        (response(CONTENT, "Content-Encoding: gzip"), errors.NotReadable),
        (response(CONTENT, status="302 Found"), errors.NotReadable),
        (moved("http://[127.0.0.1]/"), errors.MediaError),
        (moved(""), errors.NotReadable),
        (response(CONTENT)[:-1], errors.NotReadable),
        (CHUNKED + b"ff\r\nshort", errors.NotReadable),
        (CHUNKED + b"no number\r\n", errors.NotReadable),
        (CHUNKED + b"-1\r\n" + bytes(3 << 20), errors.MediaError),
        (CHUNKED + b"5\r\nhello\r\n" + b"X: y\r\n" * 1000, errors.NotReadable),
        (b"", errors.NotReadable),
        (b"\x00\xff" * 50, errors.NotReadable),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", errors.NotReadable),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000, errors.NotReadable),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000, errors.MediaError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", errors.TooBig),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n" + bytes(3 << 20), errors.TooBig),
        (b"HTTP/1.1 200 OK\r\n\r\n" + bytes(3 << 20), errors.TooBig),
        (CHUNKED + b"fffffff\r\n" + bytes(3 << 20), errors.TooBig),
        (CHUNKED + b"1\r\nx\r\n" * (3 << 19), errors.TooBig),
    ],
)
def test_broken_and_too_large_answers_are_one_error(web: Canary, reply: bytes, kind: type[Exception]) -> None:
    web.reply = lambda head, line: line.sendall(reply)
    with pytest.raises(kind) as caught:
        get(web, limits=FetchLimits(max_media=1, fetch_timeout=20, max_redirects=2))
    assert "\n" not in str(caught.value)
    assert HOST in str(caught.value)


def drip(head: bytes, block: bytes, pause: float):
    """A reply that never ends and never pauses for long."""

    def reply(_: str, line: socket.socket) -> None:
        line.sendall(head)
        while True:
            line.sendall(block)
            time.sleep(pause)

    return reply


@pytest.mark.parametrize(
    "head", [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: ", CHUNKED + b"ff\r\n", CHUNKED]
)
def test_a_slow_host_has_a_total_time(web: Canary, head: bytes) -> None:
    """A byte every few milliseconds keeps no connection alive."""
    web.reply = drip(head, b"1", 0.02)
    start = time.monotonic()
    with pytest.raises(errors.MediaTimeout, match=r"within 0\.3 seconds"):
        get(web, limits=FetchLimits(fetch_timeout=0.3))
    assert time.monotonic() - start < 3


def test_a_host_that_is_silent(web: Canary) -> None:
    web.reply = lambda head, line: time.sleep(2)
    with pytest.raises(errors.MediaTimeout):
        get(web, limits=FetchLimits(fetch_timeout=0.3))


def test_time_covers_all_redirects(web: Canary) -> None:
    def reply(head: str, line: socket.socket) -> None:
        time.sleep(0.2)
        line.sendall(moved("/again"))

    web.reply = reply
    with pytest.raises(errors.MediaTimeout):
        get(web, limits=FetchLimits(fetch_timeout=0.5, max_redirects=50))
    assert web.count() <= 3


def test_a_fetch_waits_for_its_turn_within_its_time(web: Canary) -> None:
    web.reply = lambda head, line: time.sleep(1)
    limits = FetchLimits(fetch_timeout=0.4, max_fetches=2)
    waiting = [submit(f"http://{HOST}:{web.port}/{n}", {HOST}, limits, len) for n in range(12)]
    for each in waiting:
        with pytest.raises(errors.MediaTimeout):
            each.result(timeout=5)
    assert web.count() <= 4, "those whose time was over connected to nothing"


def test_the_number_of_fetches_at_once(web: Canary) -> None:
    """Counted until the content was used, because it is in memory until then."""
    inside, most, lock = 0, 0, threading.Lock()

    def use(data: bytes) -> int:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.02)
        with lock:
            inside -= 1
        return len(data)

    limits = FetchLimits(max_fetches=3)
    futures = [submit(f"http://{HOST}:{web.port}/{n}", {HOST}, limits, use) for n in range(15)]
    assert [each.result(timeout=20) for each in futures] == [len(CONTENT)] * 15
    assert most == 3


def test_a_failure_frees_its_place(web: Canary) -> None:
    limits = FetchLimits(max_fetches=1)

    def fail(data: bytes) -> None:
        raise errors.NotMedia("no")

    for _ in range(5):
        with pytest.raises(errors.NotMedia):
            submit(f"http://{HOST}:{web.port}/", {HOST}, limits, fail).result(timeout=5)


def test_redirects_are_followed_as_far_as_allowed(web: Canary) -> None:
    def reply(head: str, line: socket.socket) -> None:
        number = int(head.split()[1].strip("/"))
        line.sendall(response(CONTENT) if number == 0 else moved(f"{number - 1}"))

    web.reply = reply
    assert get(web, "/0", FetchLimits()) == CONTENT
    with pytest.raises(errors.NotReadable, match="follows 0"):
        get(web, "/1", FetchLimits())
    assert get(web, "/2") == CONTENT
    with pytest.raises(errors.NotReadable, match="follows 2"):
        get(web, "/3")


@pytest.mark.parametrize("location", ["http://other.example/", "//other.example/", "file:///etc/passwd", "https:x"])
def test_a_redirect_to_another_host(web: Canary, location: str) -> None:
    web.reply = lambda head, line: line.sendall(moved(location))
    with pytest.raises(errors.Blocked):
        get(web)
    assert web.count() == 1


def test_the_next_address_where_one_does_not_answer(web: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    public(monkeypatch, "127.0.0.1", "127.0.0.3")
    resolve(monkeypatch, ["127.0.0.3", "127.0.0.1"])
    assert get(web) == CONTENT
    resolve(monkeypatch, ["127.0.0.3"])
    with pytest.raises(errors.NotReadable, match="ConnectionError"):
        get(web)


def test_no_socket_can_be_made(web: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptor(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("omnisift.serving.fetch.socket.socket", no_descriptor)
    with pytest.raises(errors.NotReadable, match="ConnectionError"):
        get(web)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program openssl for a certificate")
@pytest.mark.parametrize("name", [HOST, "other.example"])
def test_the_certificate_is_that_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The connection goes to the checked address, the name in TLS is the host's."""
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    subprocess.run([*command, *files, "-addext", f"subjectAltName=DNS:{name}"], check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    asked: list[str | None] = []
    server.sni_callback = lambda line, name, context: asked.append(name)
    client = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    monkeypatch.setattr(module, "_tls", lambda: client)
    public(monkeypatch, "127.0.0.1")
    resolve(monkeypatch, ["127.0.0.1"])
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            line, _ = listener.accept()
            try:
                with server.wrap_socket(line, server_side=True) as secure:
                    secure.recv(1 << 16)
                    secure.sendall(response(CONTENT))
            except OSError:
                line.close()

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"https://{HOST}:{listener.getsockname()[1]}/x"
        if name == HOST:
            assert fetch(url, {HOST}, LIMITS) == CONTENT
        else:
            with pytest.raises(errors.NotReadable, match="SSLCertVerificationError"):
                fetch(url, {HOST}, LIMITS)
        thread.join()
    assert asked == [HOST]


@pytest.mark.parametrize(
    "change",
    [
        {"max_media": 0},
        {"max_fetches": 0},
        {"max_redirects": -1},
        {"fetch_timeout": 0},
        {"fetch_timeout": float("nan")},
        {"fetch_timeout": float("inf")},
        {"fetch_timeout": 1e300},
    ],
)
def test_limits_out_of_range(change: dict[str, float]) -> None:
    with pytest.raises(errors.UsageError, match=next(iter(change))):
        FetchLimits(**change).check()


def test_limits_are_passed_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = FetchLimits(max_media=3, fetch_timeout=1.5, max_fetches=9, max_redirects=1)
    for name, value in limits.to_environment().items():
        monkeypatch.setenv(name, value)
    assert FetchLimits.from_environment() == limits
