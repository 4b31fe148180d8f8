"""The uploads of the page: what they may be called, and how much space they take together."""

from __future__ import annotations

import asyncio
import json
import stat
from contextlib import suppress
from pathlib import Path

from omnisift.media.suffixes import MEDIA_SUFFIXES
from omnisift.utils.asgi import App, Message, Receive, Send, answer, body_size

UPLOAD_SUFFIXES = tuple(sorted(MEDIA_SUFFIXES))
"""File name endings of clips that may be uploaded."""
SUBTITLE_SUFFIXES = (".srt", ".vtt")
"""File name endings of their subtitles."""
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
        self._max_request = max_file + _FORM_BYTES
        self._max_total = max(max_total, self._max_request)
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
            paths = _stored_paths(messages)
            # Other parts of the form may still be in the folder.
            self._reserved -= sum(path.stat().st_size for path in paths if path.is_file())
        finally:
            self._active -= 1
            self._remove_parts()
        allowed = (*UPLOAD_SUFFIXES, *SUBTITLE_SUFFIXES)
        others = [path for path in paths if path.suffix.lower() not in allowed]
        for path in others:
            path.unlink(missing_ok=True)
        if others:
            await answer(send, 415, f"the name of an upload must end in one of {' '.join(allowed)}\n")
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
        stored = sorted(self._stored())
        taken = sum(size for _, size, _ in stored)
        for _, bytes_freed, path in stored:
            if taken <= free:
                break
            taken -= bytes_freed
            path.unlink(missing_ok=True)
            with suppress(OSError):  # another upload lies there as well
                path.parent.rmdir()
        return True

    def _stored(self) -> list[tuple[float, int, Path]]:
        """Time, size and path of all uploads; Gradio deletes those of the day before at any moment."""
        result = []
        for path in self._folder.glob("*/*"):
            with suppress(FileNotFoundError):
                status = path.stat()
                if path.parent.name != self._kept and stat.S_ISREG(status.st_mode):
                    result.append((status.st_mtime, status.st_size, path))
        return result


def _stored_paths(messages: list[Message]) -> list[Path]:
    """The files that the application stored, according to its answer."""
    if not messages or messages[0]["status"] != 200:
        return []
    return [Path(path) for path in json.loads(b"".join(message.get("body", b"") for message in messages))]
