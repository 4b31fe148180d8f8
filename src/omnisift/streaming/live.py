"""`LiveReader`: read a stream in a thread, so that a model that is too slow falls behind in a known way."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from types import TracebackType
from typing import Protocol

from omnisift.errors import UsageError
from omnisift.media import SAMPLE_RATE
from omnisift.media.pieces import Piece
from omnisift.streaming.report import StreamReport

JOIN_TIMEOUT = 5.0
"""Seconds that the end of the thread is waited for."""


class PieceSource(Protocol):
    """What a `LiveReader` reads, such as `omnisift.media.LiveSource`."""

    is_live: bool
    """Whether pieces come at a speed of their own; else they wait for the reader."""

    def __iter__(self) -> Iterator[Piece]:
        """Yield the pieces in order of time."""

    def stop(self) -> None:
        """End the iteration, from another thread."""


class LiveReader:
    """Reads a source in a thread and holds a few seconds of it.

        with open_stream("rtsp://camera/1", allow_addresses=True) as source, LiveReader(source) as reader:
            for piece in reader:
                session.feed(piece)

    If the reader of the pieces is slower than a live source, the oldest whole part that waits is dropped, so that the
    session sees a gap: `dropped_seconds` and `notices` tell. A source that is not live waits instead.

    Args:
        source: what is read; one reader reads it once.
        hold: seconds of the stream that wait at most.
        part: seconds of a part that is dropped as a whole, the unit of the session.

    Raises:
        UsageError: ``hold`` is shorter than two parts.
    """

    def __init__(self, source: PieceSource, *, hold: float = 8.0, part: float = 2.0) -> None:
        if not (part > 0 and hold >= 2 * part):
            raise UsageError(f"hold must be at least two parts of {part:g} s, got {hold:g} s")
        self._source, self._part = source, part
        self._most = int(hold / part + 1e-6)  # parts, besides the one that is being filled
        self._changed = threading.Condition()
        self._parts: dict[int, deque[Piece]] = {}  # by number, the oldest first; none is empty
        self._newest = self._taken = 0.0  # ends of the newest piece, and of the newest that was taken
        self._taken_part = -1
        self._dropped_parts = 0
        self._has_ended = self._is_stopped = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="omnisift-stream", daemon=True)

    def __enter__(self) -> LiveReader:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __iter__(self) -> Iterator[Piece]:
        while (piece := self.take()) is not None:
            yield piece

    @property
    def seconds(self) -> float:
        """Seconds of the stream that were read from the source."""
        with self._changed:
            return self._newest

    @property
    def behind_seconds(self) -> float:
        """Seconds of a live stream that were read and not taken yet; 0 for a source that waits."""
        with self._changed:
            return max(0.0, self._newest - self._taken) if self._source.is_live else 0.0

    @property
    def dropped_seconds(self) -> float:
        """Seconds of the stream that were left out."""
        with self._changed:
            return self._dropped_parts * self._part

    @property
    def notices(self) -> tuple[str, ...]:
        """A sentence if something was left out."""
        dropped = self.dropped_seconds
        if not dropped:
            return ()
        return (f"the model is slower than the stream: {dropped:g} of {self.seconds:.1f} s were left out",)

    def completed(self, report: StreamReport) -> StreamReport:
        """Return the report of a session that is fed from here, with `behind_seconds` and `dropped_seconds`."""
        return replace(report, behind_seconds=self.behind_seconds, dropped_seconds=self.dropped_seconds)

    def take(self, timeout: float | None = None) -> Piece | None:
        """Wait for the next piece.

        Args:
            timeout: seconds to wait; None waits until there is one.

        Returns:
            The piece; None at the end, after `stop`, and if none came in time.

        Raises:
            Exception: what ended the source, after the pieces before it.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._parts or self._has_ended or self._is_stopped, timeout)
            if self._is_stopped:
                return None
            if self._parts:
                self._taken_part, pieces = next(iter(self._parts.items()))
                piece = pieces.popleft()
                if not pieces:
                    del self._parts[self._taken_part]
                self._taken = max(self._taken, _end(piece))
                self._changed.notify_all()
                return piece
            error, self._error = self._error, None
        if error is not None:
            raise error
        return None

    def stop(self) -> None:
        """End the reading; waits for the thread, unless a device or server does not answer."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
        self._source.stop()
        if self._thread.is_alive():
            self._thread.join(JOIN_TIMEOUT)

    def _run(self) -> None:
        try:
            for piece in self._source:
                if not self._put(piece):
                    return
        except Exception as error:  # raised in the thread that takes the pieces
            self._error = error
        finally:
            with self._changed:
                self._has_ended = True
                self._changed.notify_all()

    def _put(self, piece: Piece) -> bool:
        """Append a piece, after room was made for it; returns whether the reading continues."""
        number = int(piece.time / self._part + 1e-6)
        with self._changed:
            while number not in self._parts and len(self._parts) > self._most and not self._is_stopped:
                if self._source.is_live:
                    self._drop()
                else:
                    self._changed.wait()
            self._parts.setdefault(number, deque()).append(piece)
            self._newest = max(self._newest, _end(piece))
            self._changed.notify_all()
            return not self._is_stopped

    def _drop(self) -> None:
        """Drop the oldest part of which nothing was taken; there are at least three."""
        oldest = next(number for number in self._parts if number > self._taken_part)
        del self._parts[oldest]
        self._dropped_parts += 1


def _end(piece: Piece) -> float:
    """Seconds: when a piece is complete."""
    return piece.time + (0 if piece.samples is None else len(piece.samples) / SAMPLE_RATE)
