"""Servers on loopback for the tests of fetching: one that serves files, and a canary that must see no connection."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from omnisift.serving import url_policy

CONTENT = b"content of a file" * 100


@dataclass
class Canary:
    """A port on 127.0.0.1 and ::1 that counts its connections and answers each with ``reply``."""

    port: int = 0
    seen: list[str] = field(default_factory=list)
    reply: Callable[[str, socket.socket], None] = lambda head, line: line.sendall(response(CONTENT))

    def count(self) -> int:
        """Connections since the last call."""
        time.sleep(0.001)
        number = len(self.seen)
        self.seen.clear()
        return number


def response(body: bytes, *head: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *head, "", ""]
    return "\r\n".join(lines).encode() + body


def moved(url: str) -> bytes:
    return response(CONTENT, f"Location: {url}", status="302 Found")


@contextmanager
def listening(address: str = "127.0.0.1", port: int = 0) -> Iterator[Canary]:
    """A server at an address of this machine; ``reply`` of the result may be replaced."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.create_server((address, port), family=family, backlog=64)
    canary = Canary(server.getsockname()[1])

    def handle(line: socket.socket) -> None:
        with line:
            try:
                line.settimeout(10)
                canary.reply(line.recv(1 << 16).decode("latin-1"), line)
            except OSError:
                pass

    def accept() -> None:
        while True:
            try:
                line, _ = server.accept()
            except OSError:
                return
            canary.seen.append(address)
            threading.Thread(target=handle, args=(line,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield canary
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def resolve(patch: pytest.MonkeyPatch, *answers: list[str]) -> None:
    """Resolve every name to the next of ``answers``, and to the last one from then on."""
    left = list(answers)

    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        addresses = left.pop(0) if len(left) > 1 else left[0]
        return [(0, 0, 0, "", (address, 0)) for address in addresses]

    patch.setattr(socket, "getaddrinfo", getaddrinfo)


def public(patch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Count these addresses of this machine as public."""
    original = url_policy.is_public
    patch.setattr(url_policy, "is_public", lambda address: address in addresses or original(address))
