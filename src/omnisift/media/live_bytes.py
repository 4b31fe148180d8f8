"""`ByteInput`: bytes of a pipe, a socket or an HTTP response for FFmpeg, with a bound on waiting for them."""

from __future__ import annotations

import http.client
import os
import select
import socket
import stat
import struct
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from omnisift.errors import Blocked, MediaError, MediaTimeout, NotFound, NotReadable, UsageError

SCHEMES = ("http", "https", "tcp", "udp", "rtsp", "rtsps")
"""Addresses that can be opened."""

MAX_REDIRECTS = 5
MAX_DATAGRAM = 65_536
_POLL = 0.1
"""Seconds after which a waiting read looks whether it is stopped."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class ByteInput:
    """What FFmpeg reads: an object with ``read`` and without ``seek``, so that it never jumps.

    The first failure ends the stream for FFmpeg; `raise_failure` then raises it.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[int], bytes],
        stop: Callable[[], None],
        close: Callable[[], None],
        *,
        has_length: bool = False,
    ) -> None:
        """Take functions.

        Args:
            name: for messages.
            read: returns up to so many bytes, none at the end; raises `MediaTimeout` where none come in time.
            stop: ends a read of another thread.
            close: frees what is open.
            has_length: whether the number of all bytes is known, as of a stored file.
        """
        self.name, self.has_length = name, has_length
        self._read, self._stop, self._close = read, stop, close
        self._failure: BaseException | None = None
        self._left = b""
        self._is_stopped = self._is_closed = False

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes; none at the end, after a failure, and after `stop`."""
        if self._failure is not None or self._is_stopped:
            return b""
        try:
            data = self._left or self._read(size)
        except BaseException as error:  # raised by `raise_failure`: PyAV would lose an interrupt
            self._failure = error
            return b""
        # PyAV copies into a buffer of this size.
        self._left = data[size:]
        return data[:size]

    def raise_failure(self) -> None:
        """Raise what ended the stream, if it was a failure."""
        failure = self._failure
        if failure is None or self._is_stopped:
            return
        if isinstance(failure, MediaError) or not isinstance(failure, Exception):
            raise failure
        raise NotReadable(f"the stream can't be read ({type(failure).__name__}); check what sends it") from None

    def stop(self) -> None:
        """End a read of another thread, and all later ones."""
        self._is_stopped = True
        self._stop()

    def close(self) -> None:
        """Free what is open."""
        if not self._is_closed:
            self._is_closed = True
            self._close()


def late(read_timeout: float) -> MediaTimeout:
    """The error for data that do not come."""
    return MediaTimeout(f"no data for {read_timeout:g} s; check what sends the stream, or raise read_timeout")


def from_descriptor(descriptor: int, name: str, read_timeout: float, *, owned: bool) -> ByteInput:
    """Bytes of an open pipe or standard input.

    Args:
        descriptor: of the pipe.
        name: for messages.
        read_timeout: seconds for which data may be missing.
        owned: whether `ByteInput.close` closes it.
    """
    stopped = threading.Event()

    def read(size: int) -> bytes:
        return os.read(descriptor, size) if _wait(descriptor, read_timeout, stopped) else b""

    def close() -> None:
        if owned:
            os.close(descriptor)

    return ByteInput(name, read, stopped.set, close)


def from_fifo(path: str, read_timeout: float) -> ByteInput:
    """Bytes of a named pipe; waits for who writes into it.

    Raises:
        NotReadable: it can't be opened.
    """
    try:
        # Without O_NONBLOCK, opening would wait without bound for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise NotReadable(f"the pipe can't be opened ({error.strerror}); check its permissions") from None
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotReadable("is no pipe any more; start again")
    # A pipe that nobody has opened for writing reports its end to `read`, but nothing to `poll`.
    try:
        _wait(descriptor, read_timeout, threading.Event())
    except BaseException:
        os.close(descriptor)
        raise
    os.set_blocking(descriptor, True)
    return from_descriptor(descriptor, path, read_timeout, owned=True)


def from_object(stream: Any, name: str) -> ByteInput:
    """Bytes of a binary file object that can't seek; its own reads decide how long they wait."""
    read = getattr(stream, "read1", None) or stream.read
    return ByteInput(name, read, _nothing, _nothing)


def from_address(url: str, read_timeout: float) -> ByteInput:
    """Connect to an http, https, tcp or udp address.

    Raises:
        UsageError: the address is malformed.
        MediaError: nothing answers, or it does not send media.
    """
    parts = split_address(url)
    name = shown_address(url)
    try:
        if parts.scheme in ("http", "https"):
            return _from_http(url, name, read_timeout)
        if parts.scheme == "tcp":
            return _from_socket(socket.create_connection(_host(parts), read_timeout), name, read_timeout)
        return _from_socket(_datagrams(parts), name, read_timeout)
    except TimeoutError:
        raise late(read_timeout) from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise NotReadable(f"can't be reached ({reason}); check the address") from None


def split_address(url: str) -> SplitResult:
    """Take an address apart.

    Raises:
        UsageError: it is malformed, or its scheme is unknown.
    """
    try:
        parts = urlsplit(url)
        complete = bool(parts.hostname or parts.scheme == "udp") and (parts.port or True)
    except ValueError:
        parts, complete = SplitResult("", "", "", "", ""), False
    if parts.scheme not in SCHEMES or not complete or (parts.scheme in ("tcp", "udp") and parts.port is None):
        raise UsageError(
            f"{shown_address(url)!r} is no address that can be opened; write {', '.join(SCHEMES)}:// and a host, and "
            "for tcp and udp a port"
        )
    return parts


def shown_address(url: str) -> str:
    """Return an address without user name and password, for messages."""
    scheme, mark, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return scheme + mark + host.rpartition("@")[2] + slash + path.partition("?")[0]


def _host(parts: SplitResult) -> tuple[str, int]:
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _from_socket(line: socket.socket, name: str, read_timeout: float) -> ByteInput:
    """Bytes of a connection, or of datagrams."""
    stopped = threading.Event()

    def read(size: int) -> bytes:
        is_there = _wait(line.fileno(), read_timeout, stopped)
        return line.recv(max(size, MAX_DATAGRAM)) if is_there else b""  # a smaller buffer would cut a datagram

    return ByteInput(name, read, stopped.set, line.close)


def _wait(descriptor: int, read_timeout: float, stopped: threading.Event) -> bool:
    """Wait for data or the end; returns whether to read, which is not so after a stop.

    Raises:
        MediaTimeout: nothing comes for ``read_timeout`` seconds.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + read_timeout
    while not stopped.is_set():
        left = deadline - time.monotonic()
        if poll.poll(1000 * max(0.0, min(_POLL, left))):
            return True
        if left <= 0:
            raise late(read_timeout)
    return False


def _datagrams(parts: SplitResult) -> socket.socket:
    """A socket that receives at a port, as a member of a group where the host is one."""
    host, port = parts.hostname or "", parts.port or 0
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    line = socket.socket(family, socket.SOCK_DGRAM)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    try:
        line.bind((host, port))
        if family == socket.AF_INET and host and int(host.partition(".")[0] or 0) in range(224, 240):
            group = struct.pack("4s4s", socket.inet_aton(host), socket.inet_aton("0.0.0.0"))
            line.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    except (OSError, ValueError):
        line.close()
        raise
    return line


def _from_http(url: str, name: str, read_timeout: float) -> ByteInput:
    """The body of a response, after redirects to other http or https addresses."""
    for _ in range(MAX_REDIRECTS + 1):
        if urlsplit(url).scheme not in ("http", "https"):
            raise Blocked(f"redirects to {shown_address(url)}; give that address itself")
        parts = split_address(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(*_host(parts), timeout=read_timeout)
        headers = {"User-Agent": "omnisift", "Accept": "*/*"}
        if parts.username is not None:
            secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Authorization"] = "Basic " + b64encode(secret.encode()).decode()
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            connection.request("GET", target, headers=headers)
            line = connection.sock
            response = connection.getresponse()
        except BaseException:
            connection.close()
            raise
        location = response.getheader("Location")
        if response.status in _REDIRECTS and location:
            connection.close()
            url = urljoin(url, location)
            continue
        if response.status != 200:
            connection.close()
            kind_of_error = NotFound if response.status in (404, 410) else NotReadable
            raise kind_of_error(f"the server answers with status {response.status}; check the address")
        return _from_response(connection, line, response, name, read_timeout)
    raise NotReadable(f"redirects more than {MAX_REDIRECTS} times; check the address")


def _from_response(
    connection: http.client.HTTPConnection,
    line: socket.socket,
    response: http.client.HTTPResponse,
    name: str,
    read_timeout: float,
) -> ByteInput:
    def read(size: int) -> bytes:
        try:
            return response.read1(size)
        except TimeoutError:
            raise late(read_timeout) from None

    def stop() -> None:
        with suppress(OSError):  # it is closed
            line.shutdown(socket.SHUT_RDWR)

    def close() -> None:
        response.close()
        connection.close()

    return ByteInput(name, read, stop, close, has_length=response.length is not None)


def _nothing() -> None:
    """What needs no end."""
