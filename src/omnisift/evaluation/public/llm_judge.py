"""Count what a caption missed, told wrongly, or invented, against a list of events.

The benchmark of video-SALMONN-2 asks a large language model to count; any endpoint that speaks OpenAI's chat protocol
will do. `WordJudge` needs none: it compares words, for tests and for a first look. Its counts are not comparable with
anybody's.
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
    """Counts of one caption. Rates over many captions divide by the sum of ``events`` (`rates`)."""

    events: int
    missed: int
    incorrect: int
    hallucinated: int

    @property
    def wrong(self) -> int:
        """All errors together."""
        return self.missed + self.incorrect + self.hallucinated


class CaptionJudge(Protocol):
    """Counts events."""

    name: str

    def count(self, events: Sequence[str], caption: str) -> EventCounts:
        """Compare a caption with the events of its video."""


def rates(verdicts: Sequence[EventCounts]) -> dict[str, float]:
    """Shares of all events: ``missed``, ``hallucinated`` (told wrongly or invented) and their sum ``total``.

    The paper prints such a pair and its sum; that its second column holds the incorrect ones too, and that it sums
    before it divides, are our reading.
    """
    events = sum(verdict.events for verdict in verdicts)
    missed = sum(verdict.missed for verdict in verdicts) / events
    wrong = sum(verdict.incorrect + verdict.hallucinated for verdict in verdicts) / events
    return {"missed": missed, "hallucinated": wrong, "total": missed + wrong}


class WordJudge:
    """An event is told if most of its words stand in one sentence, told wrongly if some do; deterministic, offline."""

    name = "words"

    def count(self, events: Sequence[str], caption: str) -> EventCounts:
        """Compare words; a sentence that shares none with any event counts as invented."""
        sentences = [words for part in re.split(r"[.!?\n]+", caption) if (words := _words(part))]
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
    """A language model behind an address that speaks OpenAI's chat protocol, at temperature 0."""

    def __init__(self, address: str, model: str, key: str | None = None, tries: int = 4, patience: float = 120.0):
        """``address`` is the base, up to ``/v1``; ``key`` goes into the header, nowhere else."""
        if not re.match(r"https?://", address):
            raise UsageError(f"a judge's address begins with http:// or https://, got {address!r}")
        self.name = model
        self._url = address.rstrip("/") + "/chat/completions"
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._tries, self._patience = tries, patience

    def count(self, events: Sequence[str], caption: str) -> EventCounts:
        """EvalSettings. Raises `UsageError` if no try brings the counts."""
        problem = ""
        for number in range(self._tries):
            if number:
                time.sleep(min(30.0, 2.0**number))
            try:
                return parse(self._say(instruction(events, caption)), len(events))
            except (ValueError, OSError) as error:
                problem = f"{type(error).__name__}: {error}"
                if isinstance(error, urllib.error.HTTPError) and error.code not in (408, 429, 500, 502, 503, 504):
                    break
        raise UsageError(f"the judge at {self._url} gave no counts ({problem}); check address, model and key")

    def _say(self, text: str) -> str:
        body = {"model": self.name, "temperature": 0, "messages": [{"role": "user", "content": text}]}
        request = urllib.request.Request(self._url, json.dumps(body).encode(), self._headers)
        with urllib.request.urlopen(request, timeout=self._patience) as response:
            answer: Any = json.loads(response.read())
        try:
            return str(answer["choices"][0]["message"]["content"])
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError("an answer without choices") from error


def instruction(events: Sequence[str], caption: str) -> str:
    """The task of the paper's figure 9 in our words, with the same keys in the answer."""
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
    """The counts in a judge's answer: JSON or a Python dictionary, in a code fence or not.

    Raises:
        ValueError: there is none, or its counts can't be.
    """
    found = re.search(r"\{.*\}", text, re.DOTALL)
    if found is None:
        raise ValueError("an answer without a dictionary")
    try:
        said: Any = json.loads(found[0])
    except ValueError:
        try:
            said = ast.literal_eval(found[0])
        except (SyntaxError, MemoryError, RecursionError) as error:
            raise ValueError("an answer that is no dictionary") from error
    try:
        counts = [int(said[name]) for name in ("Missed", "Incorrect", "Hallucination")]
    except (KeyError, TypeError) as error:
        raise ValueError(f"an answer without counts ({type(error).__name__} {error})") from error
    if min(counts) < 0 or counts[0] + counts[1] > events:
        raise ValueError(f"counts {counts} of {events} events")
    return EventCounts(events, *counts)
