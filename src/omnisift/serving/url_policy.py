"""Which addresses a server may fetch media from: hosts that its owner named, and of those only public ones."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from omnisift.errors import Blocked


def check_address(url: str, allowed: Collection[str]) -> None:
    """Raise `Blocked` unless ``url`` is http(s), its host is in ``allowed``, and all its addresses are public."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host:
        raise Blocked("a media address must begin with http:// or https://; or send the file itself as a data: URL")
    if not allowed:
        raise Blocked("this server fetches no media: send the file itself as a data: URL")
    if host not in allowed:
        raise Blocked(f"this server fetches no media from {host!r}: send the file itself as a data: URL")
    for address in _addresses(host):
        if not ipaddress.ip_address(address).is_global:
            raise Blocked(f"{host!r} is not a public address: send the file itself as a data: URL")


def _addresses(host: str) -> list[str]:
    try:
        return [str(found[4][0]).partition("%")[0] for found in socket.getaddrinfo(host, None)]
    except OSError as error:
        raise Blocked(f"{host!r} has no address: send the file itself as a data: URL") from error
