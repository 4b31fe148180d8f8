"""ASGI middleware that allows only the requests that the page itself makes.

Gradio does more than this page needs: it fetches URLs that a request names, keeps histories, and answers under any host
name and to any other page. Everything the page does not use is refused, so that no request makes this process contact
another machine.
"""

from __future__ import annotations

import json
import logging
import re
from typing import Any
from urllib.parse import unquote

from omnisift.ui.known_hosts import KnownHosts, is_from_this_page
from omnisift.ui.live_routes import PATHS, LiveRoutes
from omnisift.ui.uploads import Uploads
from omnisift.utils.asgi import App, Message, Receive, Send, answer, headers

_log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1 << 16
"""Maximum size of a request that is not an upload: a question with its settings."""
MAX_DEPTH = 32
"""Maximum number of lists and objects inside each other in a request."""
_NOT_HERE = "not part of this page\n"
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
    """Refuses requests that the page does not make, and adds a content security policy to all others.

    Args:
        app: the application to protect.
        hosts: host names under which the page may be requested; None allows any.
        uploads: the folder of uploads; None leaves them to the application.
        live: answers the requests of the Live tab, which never reach the application; None refuses them.
    """

    def __init__(
        self,
        app: App,
        hosts: KnownHosts | None = None,
        uploads: Uploads | None = None,
        live: LiveRoutes | None = None,
    ) -> None:
        self._app, self._hosts, self._uploads, self._live = app, hosts, uploads, live

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # a web socket, which the page does not use
            await send({"type": "websocket.close", "code": 1008})
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await answer(send, 403, refusal)
            return
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            started = True
            await send(_with_headers(message))

        try:
            await self._pass_on(scope, receive, send_with_headers)
        except Exception as error:  # of any type: Gradio fails in many ways over requests that its script never sends
            path = ascii(scope["path"][:100])
            _log.warning("%s %s: %s", scope["method"], path, type(error).__name__)
            if not started:
                await answer(send, 400, "the page's server can't read this request; reload the page\n")

    def _refusal(self, scope: Message) -> str | None:
        """Why a request is refused by its head."""
        if _ALLOWED.fullmatch(unquote(scope["path"])) is None and not self._is_live(scope):
            return _NOT_HERE
        names = headers(scope, "host")
        if self._hosts is not None and not (len(names) == 1 and self._hosts.knows(names[0])):
            return "the page does not know this host name; start omnisift ui with --allow-host NAME\n"
        return None if is_from_this_page(scope) else "the request comes from another page\n"

    def _is_live(self, scope: Message) -> bool:
        return self._live is not None and PATHS.fullmatch(scope["path"]) is not None

    async def _pass_on(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request to the application, after a look at its body."""
        if self._live is not None and self._is_live(scope):
            await self._live(scope, receive, send)
        elif scope["method"] != "POST":
            await self._app(scope, receive, send)
        elif unquote(scope["path"]).rstrip("/") == "/gradio_api/upload":
            if self._uploads is None:
                await self._app(scope, receive, send)
            else:
                await self._uploads.receive(self._app, scope, receive, send)
        else:
            body = await _body(receive)
            status = 413 if body is None else _fault(body)
            if body is None or status is not None:
                await answer(send, status or 413, _NOT_HERE)
            else:
                await self._app(scope, _replayed(body, receive), send)


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


def _fault(body: bytes) -> int | None:
    """The status with which a JSON body is refused, or None.

    A file may not be named by a URL, which Gradio would fetch.
    """
    if not body:
        return None
    try:
        level: list[Any] = [json.loads(body)]
    except (ValueError, RecursionError):
        return 400
    for _ in range(MAX_DEPTH):
        paths = [value.get("path") for value in level if isinstance(value, dict)]
        if any("://" in path for path in paths if isinstance(path, str)):
            return 403
        level = [each for value in level for each in _inside(value)]
    return 400 if level else None


def _inside(value: Any) -> list[Any]:
    return value if isinstance(value, list) else list(value.values()) if isinstance(value, dict) else []


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that returns the body already read, then continues with the original."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def read() -> Message:
        return waiting.pop() if waiting else await receive()

    return read


def _with_headers(message: Message) -> Message:
    if message["type"] != "http.response.start":
        return message
    added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
    return {**message, "headers": [*message.get("headers", []), *added]}
