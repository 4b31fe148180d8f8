"""Which URLs a server may fetch media from: hosts named by its owner, and only if all their addresses are public.

A URL is parsed here and nowhere else. The connection is made from the parts that `check_url` returns, so what was
checked and what is fetched can't differ.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import quote

from omnisift.errors import Blocked, UsageError

_HINT = "send the file itself as a data: URL"
_HOST = r"[a-z0-9._-]+|\[[0-9a-f:.]+\]"
_URL = re.compile(
    rf"(?P<scheme>https?)://(?:(?P<user>[^/?#@]*)@)?(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?"
    r"(?P<target>[/?][^#]*)?(?:#.*)?",
    re.IGNORECASE | re.ASCII,
)
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\xa0\\\s\ud800-\udfff]")
"""Controls, blanks, backslashes, which parsers read differently, and halves of characters."""
_KEPT = "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~"
"""Punctuation that is sent as it is; characters outside ASCII are percent-encoded."""
_GLOBAL_V6 = ipaddress.ip_network("2000::/3")
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15", "168.63.129.16/32"),
        *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
    )
)
"""Addresses of carriers, of tests, of transitions to IPv6 (which lead to the IPv4 address inside them) and of Azure's
own host, named here because `ipaddress` counts them as global in some versions of Python."""


@dataclass(frozen=True)
class WebAddress:
    """The parts of a checked URL, and where to connect."""

    scheme: str
    host: str
    """Name in lower case, without the brackets of an IPv6 address."""
    port: int
    target: str
    """Path and query, as they stand in the request."""
    addresses: tuple[str, ...]
    """IP addresses of the host, all checked."""

    @property
    def url(self) -> str:
        """The URL made of these parts, for the base of a redirect."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.target}"


def host_name(text: str) -> str:
    """Return a host of the owner's list in the form in which hosts are compared.

    Raises:
        UsageError: it is not a host name or IP address alone.
    """
    if re.fullmatch(f"{_HOST}|[0-9a-f:.]+", text, re.IGNORECASE | re.ASCII) is None:
        raise UsageError(f"{text!r} is not a host; name it without scheme, port and path, such as videos.example")
    return _plain(text)


def _plain(host: str) -> str:
    return host.lower().strip("[]")


def check_url(url: str, allowed_hosts: Collection[str]) -> WebAddress:
    """Check a media URL of a request.

    Args:
        url: the URL; must be http or https.
        allowed_hosts: host names that the server's owner allows.

    Returns:
        What to connect to and what to ask for.

    Raises:
        Blocked: another scheme, a malformed URL, a host that is not allowed, or one with an address that is not public.
    """
    if _FORBIDDEN.search(url):
        raise Blocked(
            f"a media URL can't hold blanks, control characters or backslashes; percent-encode them, or {_HINT}"
        )
    parts = _URL.fullmatch(url)
    if parts is None:
        raise Blocked(f"a media URL must begin with http:// or https:// and the name of a host; or {_HINT}")
    if not allowed_hosts:
        raise Blocked(f"this server fetches no media; {_HINT}")
    host = _plain(parts["host"])
    if host not in map(_plain, allowed_hosts):
        raise Blocked(f"this server fetches no media from {host!r}; {_HINT}")
    if parts["user"] is not None:
        raise Blocked(f"a media URL can't hold a user name or password; leave them out, or {_HINT}")
    scheme = parts["scheme"].lower()
    port = int(parts["port"] or (443 if scheme == "https" else 80))
    if not 0 < port < 1 << 16:
        raise Blocked(f"a media URL must have a port from 1 to 65535, got {port}; correct it, or {_HINT}")
    target = parts["target"] or "/"
    target = quote(target if target[0] == "/" else f"/{target}", safe=_KEPT)
    return WebAddress(scheme, host, port, target, _public_addresses(host, port))


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet that leads to no other address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.version == 6 and ip not in _GLOBAL_V6:
        return False
    reserved = ip.is_multicast or ip.is_reserved or any(ip in network for network in _NOT_PUBLIC)
    return ip.is_global and not reserved


def _public_addresses(host: str, port: int) -> tuple[str, ...]:
    try:
        infos = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Blocked(f"the host {host!r} is unknown; {_HINT}") from error
    addresses = tuple(dict.fromkeys(str(info[4][0]) for info in infos))
    if not addresses or not all(is_public(address) for address in addresses):
        raise Blocked(f"{host!r} has an address that is not public; {_HINT}")
    return addresses
