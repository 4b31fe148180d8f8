"""A live session of the page: one stream of camera and microphone, asked at any moment.

Pieces wait in a bounded queue for the session's own thread, so that only a question waits for the model. All streams of
a model and the questions about clips take turns on it, by the model's lock.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from omnisift.errors import OmniSiftError, UsageError
from omnisift.media.pieces import Piece
from omnisift.media.units import SAMPLE_RATE
from omnisift.ui.session import MAX_CHARACTERS
from omnisift.utils.questions import check_question

_SILENCE = 1.0
"""Seconds of missing sound that are worth a notice; a microphone begins later than the camera."""


class Stream(Protocol):
    """What a session uses of the stream that `Pipeline.stream` makes."""

    @property
    def report(self) -> Any:
        """The state of the stream."""

    def feed(self, piece: Piece) -> object:
        """Take a piece."""

    def ask(self, question: str, *, follow_up: bool, max_new_tokens: int) -> Any:
        """Answer a question about what was seen."""

    def forget(self) -> None:
        """Drop the dialogue."""

    def close(self) -> None:
        """Free the memory."""


@dataclass(frozen=True)
class LiveLimits:
    """What the live sessions of a server may use."""

    sessions: int = 2
    """Sessions at a time, of all users together."""
    idle_seconds: float = 30.0
    """Seconds without a piece after which a session is closed."""
    queued_seconds: float = 8.0
    """Seconds of stream that wait for the model; older pieces make room."""
    queued_pieces: int = 64
    """Pieces that wait for the model."""
    gap_seconds: float = 60.0
    """Most seconds between the times of two pieces."""
    max_new_tokens: int = 256
    """Maximum number of tokens of an answer."""


@dataclass(frozen=True)
class LiveStatus:
    """The state of a session as the page shows it."""

    seconds: float
    """Seconds of stream that the model knows."""
    held_tokens: int
    """Tokens in the model's cache."""
    held_seconds: float
    """Seconds of stream that these tokens stand for."""
    behind_seconds: float
    """Seconds of stream that wait for the model."""
    dropped_seconds: float
    """Seconds of stream that were dropped because the model can't keep up."""
    notices: tuple[str, ...]
    """Sentences about what was unusual."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class LiveAnswer:
    """An answer, and when it was given."""

    text: str
    """What the model wrote."""
    time: float
    """Seconds of stream that it had seen."""
    latency: float
    """Seconds from the question to the answer, with the wait for the model."""
    status: LiveStatus
    """The session's state after the answer."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


class SessionEnded(OmniSiftError):
    """The live session was closed; the message says why."""


class LiveSession:
    """One stream, its queue of pieces, and the thread that uses it.

    Args:
        stream: as `Pipeline.stream` makes it; closed with the session.
        limits: what the session may use.
        on_end: called by the session's thread when it ends, with the reason.
    """

    def __init__(self, stream: Stream, limits: LiveLimits, on_end: Callable[[str], None]) -> None:
        self._stream, self._limits, self._on_end = stream, limits, on_end
        self._report = stream.report
        self._pieces: deque[Piece] = deque()
        self._request: tuple[Callable[[], Any], Future[Any]] | None = None
        self._changed = threading.Condition()
        self._ended: str | None = None
        self._latest, self._dropped = 0.0, 0.0
        self._deadline = time.monotonic() + limits.idle_seconds
        self._thread = threading.Thread(target=self._run, name="live-session", daemon=True)
        self._thread.start()

    def add(self, pieces: Sequence[Piece]) -> LiveStatus:
        """Queue pieces for the model; the oldest waiting ones make room.

        Raises:
            SessionEnded: the session was closed.
            UsageError: the time of a piece is too far ahead.
        """
        with self._changed:
            self._check_open()
            for piece in pieces:
                if piece.time > self._latest + self._limits.gap_seconds:
                    raise UsageError(
                        f"a piece of {piece.time:.1f} s follows one of {self._latest:.1f} s; at most "
                        f"{self._limits.gap_seconds:.0f} s may be missing, so start a new stream"
                    )
                self._latest = max(self._latest, _end(piece))
                self._pieces.append(piece)
            self._drop()
            self._deadline = time.monotonic() + self._limits.idle_seconds
            self._changed.notify_all()
        return self.status()

    def ask(self, question: str, follow_up: bool = False) -> LiveAnswer:
        """Ask about what the model has read so far, before it reads what waits.

        Raises:
            SessionEnded: the session was closed.
            UsageError: the question is empty, too long or not text, or another one is being answered.
        """
        check_question(question)
        if len(question) > MAX_CHARACTERS:
            raise UsageError(f"the question has {len(question)} characters; the maximum is {MAX_CHARACTERS}")
        begin, limit = time.perf_counter(), self._limits.max_new_tokens
        answer = self._call(lambda: self._stream.ask(question, follow_up=follow_up, max_new_tokens=limit))
        return LiveAnswer(answer.text, float(answer.time), time.perf_counter() - begin, self.status())

    def forget(self) -> LiveStatus:
        """Drop the dialogue that a follow-up question would continue.

        Raises:
            SessionEnded: the session was closed.
            UsageError: a question is being answered.
        """
        self._call(self._stream.forget)
        return self.status()

    def status(self) -> LiveStatus:
        """The state of the session after the last step of its thread."""
        with self._changed:
            report = self._report
            behind = max(0.0, self._latest - report.seconds)
            held = (report.held_tokens, report.held_seconds)
            return LiveStatus(report.seconds, *held, behind, self._dropped, tuple(_notices(report)))

    def end(self, reason: str) -> None:
        """Close the session; its thread frees the stream after the step that it is in."""
        with self._changed:
            self._ended = self._ended or reason
            self._pieces.clear()
            self._changed.notify_all()

    def join(self) -> None:
        """Wait until an ended session has freed its stream."""
        self._thread.join()

    def _check_open(self) -> None:
        if self._ended is not None:
            raise SessionEnded(self._ended)

    def _call(self, function: Callable[[], Any]) -> Any:
        """Let the session's thread call a function next, and return its result."""
        with self._changed:
            self._check_open()
            if self._request is not None:
                raise UsageError("a question is being answered; wait for its answer")
            result: Future[Any] = Future()
            self._request = function, result
            self._changed.notify_all()
        return result.result()

    def _drop(self) -> None:
        """Drop the oldest pieces over the limits, and count the time they span."""
        limits, pieces = self._limits, self._pieces
        while len(pieces) > 1 and (
            len(pieces) > limits.queued_pieces or self._latest - pieces[0].time > limits.queued_seconds
        ):
            piece = pieces.popleft()
            self._dropped += max(0.0, pieces[0].time - piece.time)

    def _next(self) -> bool:
        """Wait for something to do; False when the session ends."""
        with self._changed:
            while self._ended is None and not self._pieces and self._request is None:
                left = self._deadline - time.monotonic()
                if left <= 0:
                    seconds = f"{self._limits.idle_seconds:g} s"
                    self._ended = f"the stream was closed after {seconds} without images and sound; start it again"
                self._changed.wait(max(0.0, left))
            return self._ended is None

    def _step(self) -> None:
        """Answer the question that waits, or feed the oldest piece."""
        with self._changed:
            request, piece = self._request, self._pieces.popleft() if self._pieces and self._request is None else None
        if request is not None:
            function, result = request
            value, error = None, None
            try:
                value = function()
            except OmniSiftError as raised:
                error = raised
            self._note()
            if error is None:
                result.set_result(value)
            else:
                result.set_exception(error)
        elif piece is not None:
            self._stream.feed(piece)
            self._note()

    def _note(self) -> None:
        """Note the state of the stream after a step."""
        report = self._stream.report
        with self._changed:
            self._report, self._request = report, None

    def _run(self) -> None:
        """Use the stream until the session ends."""
        try:
            while self._next():
                self._step()
        except OmniSiftError as error:
            self.end(str(error))
        except BaseException as error:
            self.end(f"the stream failed ({type(error).__name__}); start it again")
            raise
        finally:
            self._stream.close()
            with self._changed:
                reason, request = self._ended or "the stream was closed", self._request
            if request is not None:
                request[1].set_exception(SessionEnded(reason))
            self._on_end(reason)


def _notices(report: Any) -> Iterator[str]:
    """What was unusual, in sentences."""
    if report.gap_seconds:
        yield f"{report.gap_seconds:.1f} s passed without images; the model has no tokens of them."
    if report.repeated_images:
        yield f"{report.repeated_images} images were missing; the ones before stand for them."
    if report.silent_seconds > _SILENCE:
        yield f"{report.silent_seconds:.1f} s of sound were missing; they are silence to the model."
    if report.late_pieces:
        yield f"{report.late_pieces} images or sounds came too late and were left out."


def _end(piece: Piece) -> float:
    """Seconds at which a piece ends."""
    return piece.time + (0 if piece.samples is None else len(piece.samples) / SAMPLE_RATE)
