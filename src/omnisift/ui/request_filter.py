"""ASGI middleware that allows only the requests that the page itself makes.

Gradio does more than this page needs: it fetches URLs that a request names, keeps histories, and answers under any host
name. Everything the page does not use is refused, so that no request makes this process contact another machine.
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

MAX_BODY_BYTES = 1 << 16
"""Maximum size of a request that is not an upload: a question with its settings."""
_ALLOWED = re.compile(
    r"/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|(assets|static|svelte)/.*"
    r"|gradio_api/(info|startup-events|app_id|theme\.css|upload|upload_progress|cancel|reset"
    r"|queue/(join|data)|heartbeat/\w+|file=(?!\w+:).*))?/?"
)
"""Paths that the page requests. Files are named by a local path, never by a URL."""
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'self'; object-src 'none'; frame-ancestors 'none'"
)
"""Forbids all other servers. Gradio evaluates text to build its HTML, so ``unsafe-eval`` must stay."""
_HEADERS = {
    "content-security-policy": _POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class RequestFilter:
    """Answers 403 or 413 to requests the page does not make, and adds a content security policy to all others.

    Args:
        app: the application to protect.
        hosts: host names under which the page may be requested, because another site could point its own name at this
            machine; None allows any.
    """

    def __init__(self, app: App, hosts: tuple[str, ...] | None = None) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # a web socket, which the page does not use
            await send({"type": "websocket.close", "code": 1008})
            return
        path = unquote(scope["path"])
        if not self._is_allowed(path) or not self._is_known_host(scope):
            await _refuse(send, 403)
            return
        if scope["method"] == "POST" and not path.startswith("/gradio_api/upload"):
            body = await _body(receive)
            if body is None:
                await _refuse(send, 413)
                return
            if _names_a_url(body):
                await _refuse(send, 403)
                return
            receive = _replayed(body, receive)
        await self._app(scope, receive, _with_headers(send))

    def _is_allowed(self, path: str) -> bool:
        return _ALLOWED.fullmatch(path) is not None

    def _is_known_host(self, scope: Message) -> bool:
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        return self._hosts is None or re.sub(r":\d+$", "", host) in self._hosts


async def _body(receive: Receive) -> bytes | None:
    """The request's body, or None above `MAX_BODY_BYTES`."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY_BYTES:
            return None
    return body


def _names_a_url(body: bytes) -> bool:
    """Whether a file in a JSON body is named by a URL, which Gradio would fetch."""
    try:
        return any("://" in path for path in _paths(json.loads(body)))
    except ValueError:
        return False


def _paths(value: Any) -> list[str]:
    """All strings under a key ``path``, at any depth."""
    if isinstance(value, list):
        return [path for each in value for path in _paths(each)]
    if not isinstance(value, dict):
        return []
    paths = [value["path"]] if isinstance(value.get("path"), str) else []
    return paths + [path for each in value.values() for path in _paths(each)]


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that returns the body already read, then continues with the original."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def read() -> Message:
        return waiting.pop() if waiting else await receive()

    return read


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await send(message)

    return send_with_headers


async def _refuse(send: Send, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"not part of this page\n"})
