"""The addresses of the Live tab: its script, and the requests that the script makes.

A request names its session in the header ``x-live-session``. Pieces come as messages of `media.piece_bytes`, each after
its length (four bytes, little-endian); all other bodies and all answers are JSON.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.resources import files
from typing import Any, ClassVar

from omnisift.errors import Damaged, OmniSiftError, TooBig, UsageError
from omnisift.media.piece_bytes import MAX_BYTES, piece_from_bytes
from omnisift.media.pieces import Piece
from omnisift.ui.live import SessionEnded
from omnisift.ui.live_sessions import LiveSessions, LiveSettings
from omnisift.utils.asgi import Message, Receive, Send, answer, body_size, headers
from omnisift.utils.parsing import shown

MAX_PIECES = 32
"""Pieces in one request."""
MAX_REQUEST = 2 * MAX_BYTES
"""Maximum size of a request with pieces."""
_MAX_JSON = 1 << 14
_SCRIPTS = ("live.js", "live_microphone.js")
PATHS = re.compile(r"/live/(live\.js|live_microphone\.js|start|pieces|ask|forget|stop)")
"""Paths that `LiveRoutes` answers."""


class LiveRoutes:
    """Answers the requests of the Live tab.

    Args:
        sessions: the live sessions of the server.
    """

    def __init__(self, sessions: LiveSessions) -> None:
        self._sessions = sessions
        # Each session sends pieces and asks one question at a time; both may wait for the model.
        self._threads = ThreadPoolExecutor(2 * sessions.limits.sessions + 2, thread_name_prefix="live-request")

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request to one of `PATHS`."""
        name = scope["path"].rpartition("/")[2]
        if name in _SCRIPTS:
            if scope["method"] != "GET":
                await answer(send, 405, "a script is read with GET\n")
                return
            await answer(send, 200, _script(name), "text/javascript; charset=utf-8")
            return
        if scope["method"] != "POST":
            await answer(send, 405, "a live stream is used with POST\n")
            return
        size = body_size(scope)
        if size is None or size > (MAX_REQUEST if name == "pieces" else _MAX_JSON):
            await answer(send, 413, "the request is too large or does not announce its size; reload the page\n")
            return
        keys = headers(scope, "x-live-session")
        key = keys[0] if len(keys) == 1 else ""
        try:
            if name != "start":
                self._sessions.get(key)  # before the body is read
        except SessionEnded as error:
            await _answer(send, 410, {"error": str(error)})
            return
        body = await _body(receive)
        loop = asyncio.get_running_loop()
        await _answer(send, *await loop.run_in_executor(self._threads, self._outcome, name, key, body))

    def _outcome(self, name: str, key: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """The status and the answer of a request."""
        try:
            return 200, self._steps[name](self, key, body)
        except SessionEnded as error:
            return 410, {"error": str(error)}
        except OmniSiftError as error:
            return 400, {"error": str(error)}

    def _start(self, _: str, body: bytes) -> dict[str, Any]:
        values = _fields(body, {"model": None, "percent": None, "audio": None})
        key = self._sessions.start(LiveSettings(**values))
        return {"session": key, "idle_seconds": self._sessions.limits.idle_seconds}

    def _pieces(self, key: str, body: bytes) -> dict[str, Any]:
        return self._sessions.get(key).add(_pieces(body)).to_dict()

    def _ask(self, key: str, body: bytes) -> dict[str, Any]:
        values = _fields(body, {"question": None, "follow_up": False})
        if not isinstance(values["follow_up"], bool):
            raise UsageError(f"follow_up is true or false, got {shown(values['follow_up'])}")
        return self._sessions.get(key).ask(**values).to_dict()

    def _forget(self, key: str, _: bytes) -> dict[str, Any]:
        return self._sessions.get(key).forget().to_dict()

    def _stop(self, key: str, _: bytes) -> dict[str, Any]:
        session = self._sessions.get(key)
        session.end("the stream was stopped; start it again")
        return session.status().to_dict()

    _steps: ClassVar[dict[str, Callable[[LiveRoutes, str, bytes], dict[str, Any]]]] = {
        "start": _start,
        "pieces": _pieces,
        "ask": _ask,
        "forget": _forget,
        "stop": _stop,
    }


async def _answer(send: Send, status: int, values: dict[str, Any]) -> None:
    await answer(send, status, json.dumps(values), "application/json")


async def _body(receive: Receive) -> bytes:
    """The request's body, whose announced size the server holds the client to."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)


def _fields(body: bytes, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a JSON object, or their defaults."""
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or not values.keys() <= defaults.keys():
        raise UsageError(f"send a JSON object of {', '.join(defaults)}")
    return {**defaults, **values}


def _pieces(body: bytes) -> list[Piece]:
    """The pieces of a request, in its order."""
    messages, place = [], 0
    while place < len(body):
        start = place + 4
        place = start + int.from_bytes(body[place:start], "little")
        if place > len(body):
            raise Damaged("a piece is shorter than its announced length; reload the page")
        messages.append(body[start:place])
    if len(messages) > MAX_PIECES:
        raise TooBig(f"a request has {len(messages)} pieces; the maximum is {MAX_PIECES}, so send them in several")
    return [piece_from_bytes(message) for message in messages]


@cache
def _script(name: str) -> str:
    return files("omnisift.ui").joinpath(name).read_text(encoding="utf-8")
