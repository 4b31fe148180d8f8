"""Under which names a page may be requested, and from which pages: another site can point its own name at this machine,
or send requests from a visitor's browser."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection
from dataclasses import dataclass

from omnisift.utils.asgi import Message, headers

LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
"""Host names by which this machine reaches itself."""


@dataclass(frozen=True)
class KnownHosts:
    """The host names of a page.

    Attributes:
        names: names and addresses.
        any_address: whether every IP address is known as well; nobody can point an address at another machine.
    """

    names: frozenset[str]
    any_address: bool = False

    @classmethod
    def of(cls, host: str, more: Collection[str] = ()) -> KnownHosts:
        """The names of a page that listens at ``host``: this machine's, the host with its addresses, and ``more``."""
        try:
            addresses = {str(info[4][0]) for info in socket.getaddrinfo(host, None)} if host else {"0.0.0.0"}
        except (OSError, UnicodeError):
            addresses = set()
        names = LOCAL | {_plain(name) for name in (host, *addresses, *more)}
        return cls(names, any(_is_wildcard(address) for address in addresses))

    def knows(self, host: str) -> bool:
        """Whether a Host header names this page."""
        match = re.fullmatch(r"([a-z0-9._-]+|\[[0-9a-f.]*:[0-9a-f:.]*\])(:[0-9]{1,5})?", host, re.ASCII | re.IGNORECASE)
        if match is None:
            return False
        name = _plain(match[1])
        return name in self.names or (self.any_address and _is_address(name))


def is_from_this_page(scope: Message) -> bool:
    """Whether a request comes from this page, from a visitor who opens it, or from a program that is no browser.

    Browsers name the page that a request comes from in ``Origin``, and its relation to this one in ``Sec-Fetch-Site``.
    """
    hosts, origins = headers(scope, "host"), headers(scope, "origin")
    if not all(origin in (f"http://{host}", f"https://{host}") for origin in origins for host in hosts):
        return False
    if set(headers(scope, "sec-fetch-site")) <= {"same-origin", "none"}:
        return True
    # A link on another page may open this one.
    opens = headers(scope, "sec-fetch-mode") == ["navigate"] and headers(scope, "sec-fetch-dest") == ["document"]
    return opens and scope["method"] == "GET" and scope["path"] == "/"


def _plain(host: str) -> str:
    """A host in lower case, an address in its shortest form without brackets."""
    name = host.lower().strip("[]")
    try:
        return str(ipaddress.ip_address(name.partition("%")[0]))
    except ValueError:
        return name


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_wildcard(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_unspecified
