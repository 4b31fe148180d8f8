"""Host names and origins: a page answers under its own names, to its own requests."""

from __future__ import annotations

import socket

import pytest
from tests.ui.asgi import Inner, request

from omnisift.ui.known_hosts import KnownHosts
from omnisift.ui.request_filter import RequestFilter

OWN = ("127.0.0.1", "127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860", "[0:0:0:0:0:0:0:1]:1")
FOREIGN = (
    *(
        "evil.example",
        "evil.example:7860",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.example#127.0.0.1",
    ),
    *("127.0.0.1@evil.example", "evil.example:127.0.0.1", "127.0.0.1:7860@evil.example", "evil.example/127.0.0.1"),
    *(
        "127.0.0.1:7860:80",
        "::1",
        "[::1",
        "[::1]evil.example",
        "127.0.0.1:",
        "",
        " ",
        "127.0.0.1 ",
        "\x00",
        "localhost.",
    ),
    *("127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.0.0.1,evil.example", "[127.0.0.1]", "xn--evil-", "\xe9"),
)


@pytest.mark.parametrize(
    "listens", ["127.0.0.1", "localhost", "::1", "127.0.0.2", "192.168.1.5", "fd00::5", "0.0.0.0", "::", ""]
)
def test_every_address_has_a_check(listens: str) -> None:
    """Also where the page listens at all addresses of this machine."""
    hosts = KnownHosts.of(listens)
    assert [host for host in OWN if not hosts.knows(host)] == []
    assert [host for host in FOREIGN if hosts.knows(host)] == []
    written = f"[{listens}]" if ":" in listens else listens
    if listens:
        assert hosts.knows(f"{written}:7860")


def test_an_address_knows_itself_and_the_wildcard_knows_all_addresses() -> None:
    assert not KnownHosts.of("127.0.0.2").knows("192.168.1.5")
    for listens in ("0.0.0.0", "::"):
        for host in ("192.168.1.5:7860", "[fd00::5]:80", "8.8.8.8"):
            assert KnownHosts.of(listens).knows(host)


def test_named_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [(0, 0, 0, "", ("10.0.0.7", 0))])
    hosts = KnownHosts.of("Box.lan", ["page.example", "[FD00::7]"])
    for host in ("box.lan:7860", "10.0.0.7:7860", "PAGE.example", "[fd00::7]:1"):
        assert hosts.knows(host)
    for host in ("page.example.", "sub.page.example", "10.0.0.8"):
        assert not hosts.knows(host)


def status(method: str = "GET", path: str = "/", **headers: str | None) -> int:
    return request(RequestFilter(Inner(), KnownHosts.of("0.0.0.0", ["page.example"])), method, path, **headers).status


@pytest.mark.parametrize("host", [None, *FOREIGN])
def test_other_hosts_are_refused(host: str | None) -> None:
    assert status(host=host) == 403


def test_two_hosts_are_refused() -> None:
    inner = Inner()
    headers = [(b"host", b"127.0.0.1"), (b"host", b"evil.example")]

    async def app(scope, receive, send):
        await RequestFilter(inner, KnownHosts.of("127.0.0.1"))({**scope, "headers": headers}, receive, send)

    assert request(app, "GET", "/").status == 403
    assert inner.seen == []


@pytest.mark.parametrize(
    "path", ["/", "/config", "/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/file=/a.mp4"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS"])
def test_requests_of_other_pages(method: str, path: str) -> None:
    own = {"origin": "http://127.0.0.1:7860", "sec_fetch_site": "same-origin"}
    assert status(method, path, **own) == 200
    assert status(method, path, origin="https://page.example", host="page.example") == 200, "behind a proxy with TLS"
    assert status(method, path, sec_fetch_site="none") == 200, "typed by the visitor"
    for site in ("cross-site", "same-site", "Cross-Site", "", "x"):
        assert status(method, path, sec_fetch_site=site) == 403
        assert status(method, path, **own | {"sec_fetch_site": site}) == 403
    for origin in ("http://evil.example", "null", "", "http://127.0.0.1:7861", "http://127.0.0.1", "127.0.0.1:7860",
                   "file://127.0.0.1:7860", "http://localhost:7860", "http://127.0.0.1:7860.evil.example",
                   "http://evil.example@127.0.0.1:7860", "http://127.0.0.1:7860/"):  # fmt: skip
        assert status(method, path, origin=origin) == 403
        assert status(method, path, **own | {"origin": origin}) == 403


def test_a_link_on_another_page_opens_this_one() -> None:
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert status(**link) == 200
    assert status("POST", **link) == 403
    assert status(path="/gradio_api/file=/a.mp4", **link) == 403
    assert status(**link | {"sec_fetch_dest": "iframe"}) == 403
    assert status(**link | {"sec_fetch_mode": "no-cors"}) == 403
    assert status(**link, origin="http://evil.example") == 403
