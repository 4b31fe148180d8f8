"""Which URLs a server may fetch media from: hosts named by its owner, and only if all their addresses are public."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from omnisift.errors import Blocked


def check_url(url: str, allowed_hosts: Collection[str]) -> None:
    """Check a media URL of a request.

    Args:
        url: the URL; must be http or https.
        allowed_hosts: host names that the server's owner allows.

    Raises:
        Blocked: another scheme, a host that is not allowed, or a host with an address that is not public.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host:
        raise Blocked("a media URL must begin with http:// or https://; or send the file itself as a data: URL")
    if not allowed_hosts:
        raise Blocked("this server fetches no media; send the file itself as a data: URL")
    if host not in allowed_hosts:
        raise Blocked(f"this server fetches no media from {host!r}; send the file itself as a data: URL")
    for address in _addresses(host):
        if not ipaddress.ip_address(address).is_global:
            raise Blocked(f"{host!r} has an address that is not public; send the file itself as a data: URL")


def _addresses(host: str) -> list[str]:
    try:
        return [str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(host, None)]
    except OSError as error:
        raise Blocked(f"the host {host!r} is unknown; send the file itself as a data: URL") from error
