"""ASGI middleware for vLLM's server: a request may have as many bytes as a clip in base64 needs, and no special tokens.

It also frees what requests leave behind. vLLM's parser of chat messages refers to itself and to the text of each media
URL, so that only Python's search for such cycles frees it, which a server with few other objects rarely makes.
"""

from __future__ import annotations

import gc
import json

from omnisift.serving.fetch_limits import FetchLimits
from omnisift.serving.request_text import RequestText, from_environment
from omnisift.utils.asgi import App, Message, Receive, Send, answer, body_size
from omnisift.utils.special_tokens import SpecialTokens

MIDDLEWARE = "omnisift.serving.body_limit.BodyLimit"
"""Import path, for the flag of vLLM."""
COLLECT_EVERY = 16 << 20
"""Bytes of requests between two searches for cycles, which take milliseconds because vLLM excludes its own objects."""


class BodyLimit:
    """Answers 413 to a request that is larger than the limit, before or while its body is read; frees old requests.

    A request whose text holds a special token of the model is answered with 400 when its body has been read.

    Args:
        app: the application to protect.
        limits: None for those in the environment.
        special: special tokens of the model; None for those in the environment.
    """

    def __init__(self, app: App, limits: FetchLimits | None = None, special: SpecialTokens | None = None) -> None:
        self._app = app
        self._special = special or from_environment()
        self._limits = limits or FetchLimits.from_environment()
        self._uncollected = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        left, started, text = self._limits.max_body_bytes, False, RequestText(self._special)
        refusal: tuple[int, str] | None = None
        if (body_size(scope) or 0) > left:
            await self._refuse(send, 413, self._too_large)
            return

        async def counted() -> Message:
            nonlocal left, refusal
            message = await receive()
            body = message.get("body", b"")
            left -= len(body)
            if left < 0:
                refusal = 413, self._too_large
            elif message["type"] == "http.request" and refusal is None:
                text.add(body)
                problem = None if message.get("more_body") else text.problem()
                refusal = None if problem is None else (400, problem)
            # The application sees a client that left; what it answers to that is dropped below.
            return message if refusal is None else {"type": "http.disconnect"}

        async def unless_refused(message: Message) -> None:
            nonlocal started
            if refusal is None or started:
                started = True
                await send(message)

        try:
            await self._app(scope, counted, unless_refused)
        except Exception:  # of any type, where it comes from the client that seems to have left
            if refusal is None:
                raise
        finally:
            self._collect(self._limits.max_body_bytes - left)
        if refusal is not None and not started:
            await self._refuse(send, *refusal)

    def _collect(self, size: int) -> None:
        self._uncollected += size
        if self._uncollected >= COLLECT_EVERY:
            self._uncollected = 0
            gc.collect()

    @property
    def _too_large(self) -> str:
        return (
            f"the request is larger than {self._limits.max_body_bytes:,} bytes; send a smaller clip "
            f"(at most {self._limits.max_media} MB)"
        )

    async def _refuse(self, send: Send, status: int, text: str) -> None:
        error = {"message": text, "type": "BadRequestError", "param": None, "code": status}
        await answer(send, status, json.dumps({"error": error}), "application/json")
