"""What `omnisift watch` does: feed a stream, ask about it every few seconds, and tell when rules begin to hold."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omnisift.batch.tasks import parse_yes_no
from omnisift.media.lines import Line
from omnisift.media.pieces import Piece
from omnisift.streaming import LiveReader, StreamAnswer, StreamSession

ANSWER, BEGIN, END = "answer", "begin", "end"
"""Kinds of events."""


@dataclass
class RuleState:
    """Whether a rule holds: from an answer yes to the next answer no. Any other answer changes nothing."""

    holds: bool = False
    spans: list[list[float | None]] = field(default_factory=list)
    """[begin, end] seconds of each time that it held; the end is None while it does."""
    unclear: int = 0
    """Answers that are neither yes nor no."""

    def update(self, verdict: bool | None, time: float) -> str | None:
        """Take an answer about the stream up to ``time``; returns `BEGIN` or `END` if it changes something."""
        self.unclear += verdict is None
        if verdict is None or verdict == self.holds:
            return None
        self.holds = verdict
        if verdict:
            self.spans.append([time, None])
            return BEGIN
        self.spans[-1][1] = time
        return END


class Watch:
    """Feeds a session from a reader and asks; ends with the stream, or after ``stop_after`` seconds of it.

    Args:
        session: the open session.
        reader: the started reader.
        questions: asked each time.
        rules: rule -> yes-or-no question, asked each time.
        every: seconds of the stream between two times.
        stop_after: seconds of the stream; infinite for its end.
        all_answers: whether each answer to a rule is told, and not its changes alone.
        max_new_tokens: of each answer.
        tell: called with each event, JSON-ready.
        progress: called after each piece.
        lines: lines of text, in order of their start; each is fed before the image that is shown when it begins.
    """

    def __init__(
        self,
        session: StreamSession,
        reader: LiveReader,
        *,
        questions: Sequence[str],
        rules: Mapping[str, str],
        every: float,
        stop_after: float,
        all_answers: bool,
        max_new_tokens: int,
        tell: Callable[[dict[str, Any]], None],
        progress: Callable[[Watch], None],
        lines: Sequence[Line] = (),
    ) -> None:
        self.session, self.reader = session, reader
        self._questions, self._rules = questions, rules
        self._every, self._stop_after, self._all_answers = every, stop_after, all_answers
        self._max_new_tokens = max_new_tokens
        self._tell, self._progress = tell, progress
        self._lines = deque(lines)
        self.fed_lines = 0
        """Lines of text that were fed."""
        self.states = {rule: RuleState() for rule in rules}
        self.time = 0.0
        """Seconds of the stream that were fed."""
        self.answers = 0
        self.most_behind = 0.0
        self._asked_at = -1.0

    def run(self) -> None:
        """Watch until the end.

        Raises:
            OmniSiftError: the source failed, or the model can't read the stream.
        """
        due = self._every
        for piece in self.reader:
            # All pieces before a time that is due are fed.
            if piece.time >= min(due, self._stop_after) - 1e-6:
                self.ask()
                due = self._every * (math.floor(piece.time / self._every + 1e-6) + 1)
            if piece.time >= self._stop_after - 1e-6:
                return
            self._feed(piece)
        if self.session.report.seconds > self._asked_at + 1e-6:
            self.ask()

    def ask(self) -> None:
        """Ask all questions and rules about the stream so far; nothing before the first image."""
        if self.session.unit_seconds is None:
            return
        for question in self._questions:
            answer = self._answer(question)
            self._tell({"event": ANSWER, **self._place(answer), "question": question, **self._cost(answer)})
        for rule, question in self._rules.items():
            answer = self._answer(question)
            verdict = parse_yes_no(answer.text)
            change = self.states[rule].update(verdict, answer.time)
            fields = {"rule": rule, **self._cost(answer), "hit": verdict}
            if self._all_answers:
                self._tell({"event": ANSWER, **self._place(answer), **fields})
            if change is not None:
                self._tell({"event": change, **self._place(answer), **fields})
        self._asked_at = self.session.report.seconds

    def summary(self) -> dict[str, Any]:
        """The totals, JSON-ready."""
        report, reader = self.session.report, self.reader
        return {
            "event": "summary",
            "seconds": round(report.seconds, 3),
            "answers": self.answers,
            "rules": {rule: {"held": state.spans, "unclear": state.unclear} for rule, state in self.states.items()},
            "most_behind_seconds": round(self.most_behind, 3),
            "dropped_seconds": reader.dropped_seconds,
            "held_tokens": report.held_tokens,
            "held_seconds": report.held_seconds,
            "lines": self.fed_lines,
            "text_tokens": report.text_tokens,
            "cache_bytes": report.cache_bytes,
            "repeated_images": report.repeated_images,
            "silent_seconds": round(report.silent_seconds, 3),
            "gap_seconds": round(report.gap_seconds, 3),
        }

    def _feed(self, piece: Piece) -> None:
        while self._lines and self._lines[0].start < piece.time + 1 / self.session.fps:
            self.session.feed(self._lines.popleft())
            self.fed_lines += 1
        self.session.feed(piece)
        self.time = max(self.time, piece.time)
        self.most_behind = max(self.most_behind, self.reader.behind_seconds)
        self._progress(self)

    def _answer(self, question: str) -> StreamAnswer:
        answer = self.session.ask(question, max_new_tokens=self._max_new_tokens)
        self.answers += 1
        return answer

    def _place(self, answer: StreamAnswer) -> dict[str, Any]:
        return {"time": round(answer.time, 3)}

    def _cost(self, answer: StreamAnswer) -> dict[str, Any]:
        return {
            "answer": answer.text,
            "first_token_seconds": round(answer.first_token_seconds, 4),
            "seconds": round(answer.seconds, 4),
            "behind_seconds": round(self.reader.behind_seconds, 3),
            "dropped_seconds": self.reader.dropped_seconds,
            "held_tokens": answer.report.held_tokens,
            "held_seconds": answer.report.held_seconds,
        }
