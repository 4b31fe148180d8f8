"""Types of ASGI, the interface between a web server and an application, and small steps on its messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


def headers(scope: Message, name: str) -> list[str]:
    """Return all values of a request's header, in lower case."""
    return [value.decode("latin-1").lower() for key, value in scope["headers"] if key.lower() == name.encode()]


def body_size(scope: Message) -> int | None:
    """Return the announced size of a request's body; None if it is sent in parts of unknown number."""
    lengths = headers(scope, "content-length")
    if len(lengths) != 1 or headers(scope, "transfer-encoding"):
        return None
    if not (lengths[0].isdecimal() and lengths[0].isascii()):
        return None
    return int(lengths[0].lstrip("0")[:20] or "0")  # Python refuses to convert thousands of digits


async def answer(send: Send, status: int, text: str, content_type: str = "text/plain; charset=utf-8") -> None:
    """Answer a request with a text, and close the connection."""
    fields = [(b"content-type", content_type.encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": text.encode()})
