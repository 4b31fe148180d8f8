"""Requests to an ASGI application without a server."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    status: int
    headers: dict[bytes, bytes]
    body: bytes


@dataclass
class Inner:
    """The application behind a filter: remembers the bodies that it got, and answers with ``reply``."""

    status: int = 200
    reply: bytes = b""
    error: Exception | None = None
    seen: list[bytes] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", scope["method"] == "POST"
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        self.seen.append(body)
        if self.error is not None:
            raise self.error
        await send({"type": "http.response.start", "status": self.status, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": self.reply})


async def exchange(app: Any, method: str, path: str, body: bytes = b"", **headers: str | None) -> Answer:
    """Send a request; ``_`` in the name of a header is a dash, and None leaves a default one out."""
    fields = {"host": "127.0.0.1:7860", "content-length": str(len(body)) if method == "POST" else None}
    fields |= {name.replace("_", "-").lower(): value for name, value in headers.items()}
    parts = [body[place : place + 1000] for place in range(0, len(body), 1000)] or [b""]
    messages = [
        {"type": "http.request", "body": part, "more_body": number + 1 < len(parts)}
        for number, part in enumerate(parts)
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    encoded = [(name.encode(), value.encode("latin-1")) for name, value in fields.items() if value is not None]
    scope = {"type": "http", "path": path, "method": method, "headers": encoded}
    await app(scope, receive, send)
    content = b"".join(message.get("body", b"") for message in sent[1:])
    return Answer(sent[0]["status"], dict(sent[0]["headers"]), content)


def request(app: Any, method: str, path: str, body: bytes = b"", **headers: str | None) -> Answer:
    return asyncio.run(exchange(app, method, path, body, **headers))
