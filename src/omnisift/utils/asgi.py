"""Types of ASGI, the interface between a web server and an application, and a short answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


def header(scope: Message, name: str) -> str | None:
    """Return the value of a request's header; None unless there is exactly one."""
    values = [value for key, value in scope["headers"] if key.lower() == name.encode()]
    return values[0].decode("latin-1") if len(values) == 1 else None


def body_size(scope: Message) -> int | None:
    """Return the announced size of a request's body; None if it is sent in chunks of unknown number."""
    length = header(scope, "content-length")
    if length is None or not (length.isdecimal() and length.isascii()):
        return None
    return int(length.lstrip("0")[:20] or "0")  # Python refuses to convert thousands of digits


async def answer(send: Send, status: int, text: str, content_type: str = "text/plain; charset=utf-8") -> None:
    """Answer a request with a text."""
    headers = [(b"content-type", content_type.encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
