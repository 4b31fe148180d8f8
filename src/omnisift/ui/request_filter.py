"""What stands between the page and the network: an ASGI layer that lets through only what the page itself asks for.

Gradio brings more than this page needs: it fetches addresses that a request names, keeps histories, answers for other
hosts. Here everything is closed that the page does without, so that no request makes this process talk to anyone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

MOST_BYTES = 1 << 16
"""Of a request that is no upload: a question with its settings."""
_OPEN = re.compile(
    r"/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|(assets|static|svelte)/.*"
    r"|gradio_api/(info|startup-events|app_id|theme\.css|upload|upload_progress|cancel|reset"
    r"|queue/(join|data)|heartbeat/\w+|file=(?!\w+:).*))?/?"
)
"""Paths that the page asks for; a file is one by its path here, never an address elsewhere."""
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'self'; object-src 'none'; frame-ancestors 'none'"
)
"""Gradio builds its HTML parts by evaluating text, so that can't be forbidden; other servers are."""
_HEADERS = {
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class RequestFilter:
    """Refuses by 403 or 413 what the page does not need, and tells browsers to stay on this server."""

    def __init__(self, app: App, hosts: tuple[str, ...] | None = None) -> None:
        """``hosts`` are the names under which the page may be asked for (another site could point its own name at this
        machine); None takes any."""
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # a web socket; the page has none
            await send({"type": "websocket.close", "code": 1008})
            return
        path = unquote(scope["path"])
        if not self._is_open(path) or not self._is_for_us(scope):
            await _refuse(send, 403)
            return
        if scope["method"] == "POST" and not path.startswith("/gradio_api/upload"):
            body = await _body(receive)
            if body is None:
                await _refuse(send, 413)
                return
            if _names_an_address(body):
                await _refuse(send, 403)
                return
            receive = _again(body, receive)
        await self._app(scope, receive, _with_headers(send))

    def _is_open(self, path: str) -> bool:
        return _OPEN.fullmatch(path) is not None

    def _is_for_us(self, scope: Message) -> bool:
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        return self._hosts is None or re.sub(r":\d+$", "", host) in self._hosts


async def _body(receive: Receive) -> bytes | None:
    """The whole of it, or None if there is too much."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MOST_BYTES:
            return None
    return body


def _names_an_address(body: bytes) -> bool:
    """Whether a file in it lies behind an address, which the framework would fetch."""
    try:
        return any("://" in path for path in _paths(json.loads(body)))
    except ValueError:
        return False


def _paths(value: Any) -> list[str]:
    """What is called ``path`` in it, however deep."""
    if isinstance(value, list):
        return [path for each in value for path in _paths(each)]
    if not isinstance(value, dict):
        return []
    own = [value["path"]] if isinstance(value.get("path"), str) else []
    return own + [path for each in value.values() for path in _paths(each)]


def _again(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives what was read already, then goes on."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def read() -> Message:
        return waiting.pop() if waiting else await receive()

    return read


def _with_headers(send: Send) -> Send:
    async def told(message: Message) -> None:
        if message["type"] == "http.response.start":
            added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await send(message)

    return told


async def _refuse(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"not part of this page\n"})
