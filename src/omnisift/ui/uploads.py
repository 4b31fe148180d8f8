"""The uploads of the page: what they may be called, and how much space they take together."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from omnisift.media.suffixes import MEDIA_SUFFIXES
from omnisift.utils.asgi import App, Message, Receive, Send, answer, body_size

UPLOAD_SUFFIXES = tuple(sorted(MEDIA_SUFFIXES))
"""File name endings of clips that may be uploaded."""
MEGABYTE = 1 << 20
UPLOAD_SECONDS = 600.0
"""Maximum time of an upload; its space is taken from the beginning."""
_FORM_BYTES = 1 << 16
"""What an upload has besides the file."""


class Uploads:
    """The folder of uploads, never fuller than a limit: the oldest uploads make room for a new one.

    Args:
        folder: where Gradio writes uploads: while they arrive in the folder itself, afterwards in subfolders.
        max_file: maximum size of an upload in bytes.
        max_total: maximum size of all uploads in bytes.
        kept: a subfolder that is left alone.
    """

    def __init__(self, folder: Path, max_file: int, max_total: int, kept: str = "samples") -> None:
        self._folder, self._kept = folder, kept
        self._max_request, self._max_total = max_file + _FORM_BYTES, max_total + _FORM_BYTES
        self._active = 0
        self._reserved = 0

    async def receive(self, app: App, scope: Message, receive: Receive, send: Send) -> None:
        """Let the application store an upload, within the limits and with an allowed ending."""
        size = body_size(scope)
        if size is None:
            await answer(send, 411, "an upload must announce its size\n")
            return
        if size > self._max_request:
            text = f"the upload has {size:,} bytes; the maximum is {self._max_request - _FORM_BYTES:,}\n"
            await answer(send, 413, text)
            return
        if not self._make_room(size):
            await answer(send, 503, "other uploads take all the space; try again in a minute\n")
            return
        messages: list[Message] = []

        async def collect(message: Message) -> None:
            messages.append(message)

        self._active += 1
        self._reserved += size
        try:
            await asyncio.wait_for(app(scope, receive, collect), UPLOAD_SECONDS)
            if _is_stored(messages):
                self._reserved -= size
        finally:
            self._active -= 1
            self._remove_parts()
        if self._remove_others(messages):
            await answer(send, 415, f"the name of a clip must end in one of {' '.join(UPLOAD_SUFFIXES)}\n")
            return
        for message in messages:
            await send(message)

    def _remove_parts(self) -> None:
        """Delete the parts of broken uploads, when no upload is under way.

        Gradio leaves them in the folder, under names that it does not tell. Until then their announced size is counted.
        """
        if self._active == 0:
            self._reserved = 0
            for path in self._folder.iterdir():
                if path.is_file():
                    path.unlink(missing_ok=True)

    def _make_room(self, size: int) -> bool:
        """Delete the oldest uploads until ``size`` bytes more fit; False if they never will."""
        free = self._max_total - self._reserved - size
        if free < 0:
            return False
        stored = sorted(self._stored(), key=lambda path: path.stat().st_mtime)
        taken = sum(path.stat().st_size for path in stored)
        for path in stored:
            if taken <= free:
                break
            taken -= path.stat().st_size
            path.unlink()
        return True

    def _stored(self) -> list[Path]:
        folders = [path for path in self._folder.iterdir() if path.is_dir() and path.name != self._kept]
        return [path for folder in folders for path in folder.rglob("*") if path.is_file()]

    def _remove_others(self, messages: list[Message]) -> bool:
        """Delete those files that the application stored under another ending; returns whether there were any."""
        if not _is_stored(messages):
            return False
        paths = [Path(path) for path in json.loads(b"".join(message.get("body", b"") for message in messages))]
        others = [path for path in paths if path.suffix.lower() not in UPLOAD_SUFFIXES]
        for path in others:
            path.unlink(missing_ok=True)
        return bool(others)


def _is_stored(messages: list[Message]) -> bool:
    return bool(messages) and messages[0]["status"] == 200
