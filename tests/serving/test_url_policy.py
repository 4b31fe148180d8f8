"""Forged URLs against a canary on this machine: each is refused in one sentence, and no connection is made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.serving.web import Canary, listening, moved, public, resolve

from omnisift.errors import Blocked, MediaError, UsageError
from omnisift.serving import url_policy
from omnisift.serving.fetch import fetch
from omnisift.serving.fetch_limits import FetchLimits
from omnisift.serving.url_policy import check_url, host_name

HOST = "media.example"
LIMITS = FetchLimits(fetch_timeout=3.0, max_redirects=3)

FORGED = (
    # Two parsers disagree about where the host ends.
    *(r"http://{me}\@{host}/x", r"http://{me}\\@{host}/x", r"HTTP://{me}\@{host}/x", r"http://u:p@{me}\@{host}/x"),
    *(r" http://{me}\@{host}/x", r"http:\\{me}\@{host}/x", r"http:/\{me}@{host}", r"http://{host}\@{me}/x"),
    *(r"http://{host}\.{me}/", "http://{me}#@{host}/x", "http://{me}?@{host}/x", "http://{me}/@{host}/x"),
    *("http://{host}#@{me}/", "http://{host}@{me}/", "http://{host}:80@{me}/", "http://a@{host}@{me}/"),
    *("http://{me}%23@{host}/", "http://{me}%2f@{host}/", "http://{me}%5c@{host}/", "http://{me}%00{host}/"),
    *("http://{me};{host}/", "http://{me},{host}/", "http://[{me}]@{host}/", "http://{host}[{me}]/"),
    # Characters that parsers remove, or that end a line of the request.
    *("http://{me}\t@{host}/", "http://{me}\r\n@{host}/", "http://{me}\n.{host}/", "ht\ntp://{me}/"),
    *("\x00http://{me}/", "http://{host} @{me}/", "http://{host}/\r\nHost: {me}", "http://{host}:80\t@{me}/"),
    *("http://{me}\u2028@{host}/", "http://{me}\u3000@{host}/", "http://{me}\u00a0/", "http://{host}/\ud800"),
    # Characters that a normalisation turns into others.
    *("http://{me}\uff0f@{host}/", "http://{me}\uff03@{host}/", "http://\uff4d\uff45dia.example@{me}/"),
    *(
        "http://\u2460\u2461\u2466.0.0.1:{port}/",
        "http://127\u30020\u30020\u30021:{port}/",
        "http://med\u0131a.example/",
    ),
    # This machine, in other words.
    *("http://{me}/", "http://localhost:{port}/", "http://LOCALHOST:{port}/", "http://localhost.:{port}/"),
    *("http://0177.0.0.1:{port}/", "http://2130706433:{port}/", "http://0x7f000001:{port}/", "http://127.1:{port}/"),
    *("http://0x7f.1:{port}/", "http://0:{port}/", "http://0.0.0.0:{port}/", "http://017700000001:{port}/"),
    *(
        "http://[::1]:{port}/",
        "http://[::]:{port}/",
        "http://[::ffff:127.0.0.1]:{port}/",
        "http://[::127.0.0.1]:{port}/",
    ),
    *("http://[::ffff:7f00:1]:{port}/", "http://[0:0:0:0:0:0:0:1]:{port}/", "http://[::1%25lo]:{port}/"),
    *("http://127.0.0.1.:{port}/", "http://127.0.0.2:{port}/", "http://[fe80::1]:{port}/", "http://169.254.169.254/"),
    *("http://[64:ff9b::7f00:1]:{port}/", "http://[2002:7f00:1::]:{port}/", "http://100.64.0.1:{port}/"),
    # Other schemes, and none.
    *(
        "//{me}/",
        "{me}/",
        "http:{me}/",
        "http:///{me}/",
        "https:{me}",
        "ftp://{me}/",
        "gopher://{me}/_GET",
        "dict://{me}/",
    ),
    *(
        "file:///etc/passwd",
        "jar:http://{me}!/",
        "url:http://{me}/",
        "http+unix://{me}/",
        "httpx://{me}/",
        "",
        "http://",
    ),
    *("http://{host}:0/", "http://{host}:65536/", "http://{host}:99999/", "http://{host}:-1/", "http://{host}:8_0/"),
    *("http://{host}:\u0661/", "http://{host}:80:{port}/", "http://{host}:/x@{me}", "concat:http://{me}/|http://{me}/"),
)


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    with listening() as canary, listening("::1", canary.port) as other:
        other.seen = canary.seen
        yield canary


def forged(text: str, canary: Canary) -> str:
    names = {"{me}": f"127.0.0.1:{canary.port}", "{port}": str(canary.port), "{host}": HOST}
    for name, value in names.items():
        text = text.replace(name, value)
    return text


@pytest.mark.parametrize("text", FORGED)
@pytest.mark.parametrize("named", ["one host", "any host"])
def test_a_forged_url_reaches_nothing(canary: Canary, monkeypatch: pytest.MonkeyPatch, text: str, named: str) -> None:
    """Also where the owner named the host, or the rule about hosts fails."""
    url = forged(text, canary)
    allowed = {HOST}
    if named == "any host":
        allowed |= {"localhost", "localhost.", "127.0.0.1", "127.0.0.1.", "127.0.0.2", "0177.0.0.1", "2130706433", "0"}
        allowed |= {"0x7f000001", "127.1", "0x7f.1", "0.0.0.0", "017700000001", "::1", "::", "::ffff:127.0.0.1"}
        allowed |= {"::127.0.0.1", "::ffff:7f00:1", "0:0:0:0:0:0:0:1", "fe80::1", "64:ff9b::7f00:1", "2002:7f00:1::"}
        allowed |= {"169.254.169.254", "100.64.0.1", f"{HOST}.127.0.0.1"}
    else:
        resolve(monkeypatch, ["127.0.0.1"])
    with pytest.raises(MediaError) as caught:
        fetch(url, allowed, LIMITS)
    assert isinstance(caught.value, Blocked)
    assert "\n" not in str(caught.value)
    assert canary.count() == 0


@pytest.mark.parametrize("text", FORGED)
def test_a_redirect_to_a_forged_url_reaches_nothing(canary: Canary, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """From an allowed host, whose name then leads to this machine."""
    resolve(monkeypatch, ["127.0.0.2"], ["127.0.0.1"])
    public(monkeypatch, "127.0.0.2")
    with listening("127.0.0.2") as good:
        good.reply = lambda head, line: line.sendall(
            b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: "
            + forged(text, canary).encode("utf-8", "replace")
            + b"\r\n\r\n"
        )
        with pytest.raises(MediaError):
            fetch(f"http://{HOST}:{good.port}/x", {HOST}, LIMITS)
        assert good.count() == 1
    assert canary.count() == 0


def test_the_canary_is_seen(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the tests above would hold whatever happens."""
    public(monkeypatch, "127.0.0.1", "::1")
    for host in ("127.0.0.1", "[::1]", "localhost"):
        fetch(f"http://{host}:{canary.port}/", {host}, LIMITS)
        assert canary.count() == 1


@pytest.mark.parametrize("redirect", [False, True])
def test_a_name_that_rebinds(canary: Canary, monkeypatch: pytest.MonkeyPatch, redirect: bool) -> None:
    """The connection goes to the address of the check, and each redirect is a check of its own."""
    public(monkeypatch, "127.0.0.2")
    resolve(monkeypatch, ["127.0.0.2"], ["127.0.0.1"])
    url = f"http://{HOST}:{canary.port}/x"
    with listening("127.0.0.2", canary.port) as good:
        if redirect:
            good.reply = lambda head, line: line.sendall(moved(url))
            with pytest.raises(Blocked, match="not public"):
                fetch(url, {HOST}, LIMITS)
        else:
            assert fetch(url, {HOST}, LIMITS).startswith(b"content")
        assert good.count() == 1
    assert canary.count() == 0


@pytest.mark.parametrize("first", ["93.184.215.14", "2606:2800:21f:cb07::1"])
@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
        ),
        *(
            "100.64.0.1",
            "100.127.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "192.0.2.1",
            "198.18.0.1",
        ),
        *("198.51.100.1", "203.0.113.1", "192.88.99.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:93.184.215.14", "::ffff:0:7f00:1", "64:ff9b::7f00:1"),
        *("64:ff9b:1::7f00:1", "100::1", "2001::1", "2001:0:7f00:1::", "2001:db8::1", "2002:7f00:1::1", "2002:a00:1::"),
        *("3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%lo", "fec0::1", "ff02::1"),
    ],
)
def test_addresses_that_are_not_public(monkeypatch: pytest.MonkeyPatch, first: str, address: str) -> None:
    assert not url_policy.is_public(address)
    resolve(monkeypatch, [first, address])
    with pytest.raises(Blocked, match="not public"):
        check_url(f"https://{HOST}/x", {HOST})


@pytest.mark.parametrize("address", ["93.184.215.14", "1.1.1.1", "2606:2800:21f:cb07::1", "2a00:1450:4001::1"])
def test_addresses_that_are_public(address: str) -> None:
    assert url_policy.is_public(address)


@pytest.mark.parametrize(
    ("url", "target", "port"),
    [
        (f"https://{HOST}/a/b.mp4?t=1&x=%20y#part", "/a/b.mp4?t=1&x=%20y", 443),
        (f"HTTP://{HOST.upper()}:8080?q=[a|b]", "/?q=[a|b]", 8080),
        (f"http://{HOST}", "/", 80),
        (f"http://{HOST}/clip ä.mp4".replace(" ", "-"), "/clip-%C3%A4.mp4", 80),
        (f"http://{HOST}//evil.example/@x", "//evil.example/@x", 80),
    ],
)
def test_the_parts_of_a_url(monkeypatch: pytest.MonkeyPatch, url: str, target: str, port: int) -> None:
    resolve(monkeypatch, ["93.184.215.14", "93.184.215.14"])
    address = check_url(url, [HOST.upper()])
    assert (address.host, address.target, address.port) == (HOST, target, port)
    assert address.addresses == ("93.184.215.14",)
    assert check_url(address.url, [HOST]) == address


@pytest.mark.parametrize(
    "text", ["http://media.example", "media.example:80", "media.example/x", "", "a b", "u@h", "[::1"]
)
def test_a_host_of_the_owner_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="is not a host"):
        host_name(text)
