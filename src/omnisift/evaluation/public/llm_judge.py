"""Judges of captions: count the events that a caption misses, describes incorrectly, or invents.

The benchmark of video-SALMONN-2 uses a large language model as judge; `EndpointJudge` calls any endpoint with OpenAI's
chat protocol. `WordJudge` compares words without a model, for tests and a first look; its counts are not comparable
with published ones.
"""

from __future__ import annotations

import ast
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from omnisift.errors import UsageError

_WORD = re.compile(r"[a-z0-9]+")
_EMPTY = set(
    _WORD.findall(
        "a an and are as at be by for from has he her his in is it its of on or she the then they to was with"
    )
)


@dataclass(frozen=True)
class EventCounts:
    """Counts of one caption. The rates of several captions are ratios of sums (`rates`)."""

    events: int
    """Events of the video."""
    missed: int
    """Events that the caption lacks."""
    incorrect: int
    """Events that it describes with factual errors."""
    hallucinated: int
    """Events that it invents."""

    @property
    def wrong(self) -> int:
        """Sum of all errors."""
        return self.missed + self.incorrect + self.hallucinated


class CaptionJudge(Protocol):
    """Counts the events in a caption."""

    name: str
    """Recorded with each count."""

    def count(self, events: Sequence[str], caption: str) -> EventCounts:
        """Compare ``caption`` with the ``events`` of its video."""


def rates(counts: Sequence[EventCounts]) -> dict[str, float]:
    """Return the fractions of all events ``missed``, ``hallucinated`` (incorrect or invented) and their sum ``total``.

    The paper prints such a pair and its sum. It does not state that its second column includes incorrect events, nor
    that it sums before it divides; both are our interpretation.
    """
    events = sum(count.events for count in counts)
    missed = sum(count.missed for count in counts) / events
    wrong = sum(count.incorrect + count.hallucinated for count in counts) / events
    return {"missed": missed, "hallucinated": wrong, "total": missed + wrong}


class WordJudge:
    """Compare words: an event is described if one sentence has most of its words, and incorrect if it has some."""

    name = "words"

    def count(self, events: Sequence[str], caption: str) -> EventCounts:
        """Count events; a sentence that shares no word with any event counts as invented."""
        sentences = [words for part in re.split(r"[.!?\n]+", caption) if (words := _words(part))]
        # Largest fraction of an event's words in one sentence.
        best = [max((len(_words(event) & words) / max(1, len(_words(event))) for words in sentences), default=0.0)
                for event in events]  # fmt: skip
        known = set().union(*map(_words, events))
        return EventCounts(
            events=len(events),
            missed=sum(share < 0.3 for share in best),
            incorrect=sum(0.3 <= share < 0.6 for share in best),
            hallucinated=sum(not words & known for words in sentences),
        )


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower())) - _EMPTY


class EndpointJudge:
    """Let a language model count, through an endpoint with OpenAI's chat protocol, at temperature 0.

    Args:
        address: Base URL, up to ``/v1``.
        model: Name of the model; also the name of the judge.
        key: API key; it is sent in the header and stored nowhere else.
        tries: Attempts per caption.
        timeout: Seconds to wait for an answer.

    Raises:
        UsageError: ``address`` is not an http or https URL.
    """

    def __init__(self, address: str, model: str, key: str | None = None, tries: int = 4, timeout: float = 120.0):
        if not re.match(r"https?://", address):
            raise UsageError(f"the address of a judge starts with http:// or https://, got {address!r}")
        self.name = model
        self._url = address.rstrip("/") + "/chat/completions"
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._tries, self._timeout = tries, timeout

    def count(self, events: Sequence[str], caption: str) -> EventCounts:
        """EvalSettings. Raises `UsageError` if no try brings the counts."""
        problem = ""
        for number in range(self._tries):
            if number:
                time.sleep(min(30.0, 2.0**number))
            try:
                return parse(self._complete(instruction(events, caption)), len(events))
            except (ValueError, OSError) as error:
                problem = f"{type(error).__name__}: {error}"
                if isinstance(error, urllib.error.HTTPError) and error.code not in (408, 429, 500, 502, 503, 504):
                    break
        raise UsageError(f"the judge at {self._url} returned no counts ({problem}); check address, model and key")

    def _complete(self, text: str) -> str:
        body = {"model": self.name, "temperature": 0, "messages": [{"role": "user", "content": text}]}
        request = urllib.request.Request(self._url, json.dumps(body).encode(), self._headers)
        with urllib.request.urlopen(request, timeout=self._timeout) as response:
            answer: Any = json.loads(response.read())
        try:
            return str(answer["choices"][0]["message"]["content"])
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError("the response has no choices") from error


def instruction(events: Sequence[str], caption: str) -> str:
    """Return the prompt: the task of the paper's figure 9 in our words, with the same keys in the answer."""
    return (
        "Compare a description of a video with the list of events that happen in it.\n"
        "An event is missed if the description lacks its main action, who takes part and its context. It is incorrect "
        "if it is mentioned with significant factual errors. A hallucination is an event of the description that is "
        "not in the list and can't plausibly be inferred from it. An event is either missed or incorrect, never both.\n"
        f"Events: {list(events)!r}\nDescription: {caption!r}\n"
        "Answer with one dictionary and nothing else: {'Missed': number, 'Incorrect': number, 'Hallucination': number, "
        "'Missed Event': [...], 'Incorrect Event': [...], 'Hallucination Event': [...]}"
    )


def parse(text: str, events: int) -> EventCounts:
    """Read the counts from an answer: JSON or a Python dictionary, in a code fence or not.

    Args:
        text: The answer.
        events: Number of events of the video.

    Raises:
        ValueError: The answer has no dictionary, or its counts are impossible.
    """
    match = re.search(r"\{.*\}", text, re.DOTALL)
    if match is None:
        raise ValueError("the answer has no dictionary")
    try:
        data: Any = json.loads(match[0])
    except ValueError:
        try:
            data = ast.literal_eval(match[0])
        except (SyntaxError, MemoryError, RecursionError) as error:
            raise ValueError("the answer is not a dictionary") from error
    try:
        counts = [int(data[name]) for name in ("Missed", "Incorrect", "Hallucination")]
    except (KeyError, TypeError) as error:
        raise ValueError(f"the answer has no counts ({type(error).__name__} {error})") from error
    if min(counts) < 0 or counts[0] + counts[1] > events:
        raise ValueError(f"impossible counts {counts} for {events} events")
    return EventCounts(events, *counts)
