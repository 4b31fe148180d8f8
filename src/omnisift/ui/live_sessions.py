"""The live sessions of a server: their number is limited, and each has a key that only its page knows."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from omnisift.errors import UsageError
from omnisift.ui.live import LiveLimits, LiveSession, SessionEnded, Stream
from omnisift.ui.session import Session
from omnisift.utils.parsing import shown

_REMEMBERED = 32
"""Ended sessions whose reason is kept for the page."""


@dataclass(frozen=True)
class LiveSettings:
    """What a user chooses for a stream."""

    model: str
    """One of the page's models."""
    percent: float
    """Share of the video and audio tokens to keep, in percent."""
    audio: bool
    """Whether there is a microphone."""


def opener(session: Session) -> Callable[[LiveSettings], Stream]:
    """Opens streams of a session's model with its default method."""

    def open_stream(settings: LiveSettings) -> Stream:
        pipeline = session.pipeline(settings.percent)
        return pipeline.stream(max_pixels=session.max_pixels, audio=settings.audio)

    return open_stream


class LiveSessions:
    """The live sessions of a server, each with a key that only its page knows.

    Args:
        openers: name of a model -> opens a stream with the user's settings.
        limits: what the sessions may use.
    """

    def __init__(self, openers: Mapping[str, Callable[[LiveSettings], Stream]], limits: LiveLimits) -> None:
        self.limits = limits
        self._openers = openers
        self._lock = threading.Lock()
        self._sessions: dict[str, LiveSession | None] = {}
        self._reasons: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        with self._lock:
            return len(self._sessions)

    def start(self, settings: LiveSettings) -> str:
        """Open a stream and return the session's key.

        Raises:
            UsageError: a setting is wrong, or all sessions are taken.
            OmniSiftError: the model or the method can't stream.
        """
        opener = self._opener(settings)
        key = secrets.token_hex(16)
        with self._lock:
            if len(self._sessions) >= self.limits.sessions:
                raise UsageError(f"all {self.limits.sessions} live streams of this server are taken; try again later")
            self._sessions[key] = None  # takes its place while the stream opens
        try:
            session = LiveSession(opener(settings), self.limits, lambda reason: self._forget(key, reason))
        except BaseException:
            self._forget(key, "the stream could not be opened")
            raise
        with self._lock:
            if key in self._sessions:  # its thread may have failed and ended it
                self._sessions[key] = session
        return key

    def get(self, key: str) -> LiveSession:
        """The session of a key.

        Raises:
            SessionEnded: the session was closed, or there never was one.
        """
        with self._lock:
            session = self._sessions.get(key)
            if session is None:
                raise SessionEnded(self._reasons.get(key, "this server has no such stream; start it again"))
            return session

    def close(self) -> None:
        """End all sessions and wait until their streams are closed."""
        with self._lock:
            sessions = [session for session in self._sessions.values() if session is not None]
        for session in sessions:
            session.end("the server stops")
        for session in sessions:
            session.join()

    def _opener(self, settings: LiveSettings) -> Callable[[LiveSettings], Stream]:
        """Check the settings and return the opener of the model."""
        opener = self._openers.get(settings.model) if isinstance(settings.model, str) else None
        if opener is None:
            raise UsageError(f"the page has no model {shown(settings.model)}; choose one of {', '.join(self._openers)}")
        percent = settings.percent
        if isinstance(percent, bool) or not isinstance(percent, (int, float)) or not 0 < percent <= 100:
            raise UsageError(f"keep more than 0 and at most 100 % of the tokens, got {shown(percent)}")
        if not isinstance(settings.audio, bool):
            raise UsageError(f"audio is true or false, got {shown(settings.audio)}")
        return opener

    def _forget(self, key: str, reason: str) -> None:
        with self._lock:
            self._sessions.pop(key, None)
            self._reasons[key] = reason
            while len(self._reasons) > _REMEMBERED:
                self._reasons.popitem(last=False)
