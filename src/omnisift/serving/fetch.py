"""Fetch a file over HTTP within limits: from the address that was checked, at most so large, within a total time.

The standard library speaks HTTP here, because it takes host, address and path apart instead of a URL to parse again.
Proxies and stored passwords of the environment are not used.
"""

from __future__ import annotations

import functools
import http.client
import io
import socket
import ssl
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import urljoin

from omnisift.errors import MediaTimeout, NotFound, NotReadable, TooBig
from omnisift.serving.fetch_limits import FetchLimits
from omnisift.serving.url_policy import WebAddress, check_url

_HINT = "send the file itself as a data: URL"
_HEAD_BYTES = 1 << 20
"""What a response may have besides its body: status, headers, sizes of chunks."""
_CONNECT_SECONDS = 10.0
"""Time for one address of a host, so that the next one is tried as well."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_Result = TypeVar("_Result")


def submit(
    url: str, allowed_hosts: Collection[str], limits: FetchLimits, use: Callable[[bytes], _Result]
) -> Future[_Result]:
    """Fetch a URL and apply ``use`` to its bytes in one of ``limits.max_fetches`` threads.

    The place is taken until ``use`` returns, so that at most that many files are in memory.
    """
    deadline = time.monotonic() + limits.fetch_timeout
    return _threads(limits.max_fetches).submit(lambda: use(fetch(url, allowed_hosts, limits, deadline)))


@functools.cache
def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, thread_name_prefix="omnisift-fetch")


def fetch(url: str, allowed_hosts: Collection[str], limits: FetchLimits, deadline: float | None = None) -> bytes:
    """Return the content of a URL.

    Args:
        url: an http or https URL of a request.
        allowed_hosts: host names that the server's owner allows.
        limits: size, time and redirects.
        deadline: end of the time on the clock of `time.monotonic`; None for ``limits.fetch_timeout`` from now.

    Raises:
        Blocked: the URL, or one that it redirects to, may not be fetched.
        MediaTimeout: the time is over.
        TooBig: the file is larger than allowed.
        NotFound: the host has no such file.
        NotReadable: any other failure.
    """
    deadline = time.monotonic() + limits.fetch_timeout if deadline is None else deadline
    for _ in range(limits.max_redirects + 1):
        address = check_url(url, allowed_hosts)
        try:
            content, location = _get(address, limits, deadline)
            if location is None:
                return content
            url = urljoin(address.url, location)
        except TimeoutError as error:
            raise MediaTimeout(
                f"no file from {address.host!r} within {limits.fetch_timeout:g} seconds; try again, or {_HINT}"
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NotReadable(
                f"the file can't be read from {address.host!r} ({type(error).__name__}); {_HINT}"
            ) from error
    raise NotReadable(
        f"{address.host!r} redirects to another URL, and the server follows {limits.max_redirects}; {_HINT}"
    )


def _get(address: WebAddress, limits: FetchLimits, deadline: float) -> tuple[bytes, str | None]:
    """Content of a response, or where it redirects to."""
    with _connect(address, deadline) as line:
        connection = http.client.HTTPConnection(address.host, address.port)
        # Decides whether the Host header names the port.
        connection.default_port = 443 if address.scheme == "https" else 80
        connection.auto_open = 0
        connection.sock = _BoundedSocket(line, deadline, limits.max_bytes + _HEAD_BYTES, _too_big(address, limits))
        connection.request("GET", address.target, headers={"User-Agent": "omnisift", "Connection": "close"})
        response = connection.getresponse()
        if response.status in _REDIRECTS:
            location = response.getheader("Location")
            if location is None:
                raise http.client.HTTPException
            return b"", location
        if response.status in (404, 410):
            raise NotFound(f"{address.host!r} has no such file; correct the URL, or {_HINT}")
        if response.status != 200 or response.getheader("Content-Encoding", "identity").lower() != "identity":
            raise NotReadable(f"{address.host!r} does not send the file (status {response.status}); {_HINT}")
        return _body(response, limits.max_bytes, _too_big(address, limits)), None


def _too_big(address: WebAddress, limits: FetchLimits) -> TooBig:
    return TooBig(f"the file at {address.host!r} is larger than {limits.max_media} MB; send a smaller one")


def _body(response: http.client.HTTPResponse, max_bytes: int, too_big: TooBig) -> bytes:
    if (response.length or 0) > max_bytes:
        raise too_big
    data = io.BytesIO()
    while block := response.read(1 << 16):
        data.write(block)
        if data.tell() > max_bytes:
            raise too_big
    if response.length:  # the rest of what was announced
        raise http.client.IncompleteRead(b"", response.length)
    return data.getvalue()


def _connect(address: WebAddress, deadline: float) -> socket.socket:
    """Connect to the first checked address that answers; TLS verifies the certificate for the host's name."""
    for ip in address.addresses:
        try:
            line = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET)
        except OSError:
            continue  # a machine without IPv6, or too many open files
        try:
            # `connect` takes the address as it is, while `create_connection` would resolve it again.
            line.settimeout(min(_left(deadline), _CONNECT_SECONDS))
            line.connect((ip, address.port))
            break
        except OSError:
            line.close()
            _left(deadline)
    else:
        raise ConnectionError
    if address.scheme == "http":
        return line
    try:
        line.settimeout(_left(deadline))
        return _tls().wrap_socket(line, server_hostname=address.host)
    except BaseException:
        line.close()
        raise


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _left(deadline: float) -> float:
    """Seconds until the deadline. Raises `TimeoutError` after it."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _BoundedSocket(io.RawIOBase):
    """A socket that fails after a deadline, whatever the size of each read, and above a number of bytes."""

    def __init__(self, line: socket.socket, deadline: float, max_bytes: int, too_big: TooBig) -> None:
        self._line, self._deadline, self._left_bytes, self._too_big = line, deadline, max_bytes, too_big

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._line.settimeout(_left(self._deadline))
        count = self._line.recv_into(buffer)
        self._left_bytes -= count
        if self._left_bytes < 0:
            raise self._too_big
        return count

    def sendall(self, data: Any) -> None:
        self._line.settimeout(_left(self._deadline))
        self._line.sendall(data)

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        return io.BufferedReader(self)

    def close(self) -> None:
        """Do nothing: `http.client` closes before the body is read, and `_get` closes the socket itself."""
