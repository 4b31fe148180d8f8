"""Counts of events: offline by words, and from a service that speaks OpenAI's protocol (here one of our own)."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnisift.errors import UsageError
from omnisift.evaluation.public.llm_judge import EndpointJudge, EventCounts, WordJudge, instruction, parse, rates

EVENTS = ["A red circle appears", "A bell rings twice", "The camera turns to a green square"]


def test_words_told_missed_mistold_and_invented() -> None:
    told = "A red circle appears. The bell rings. A dog barks loudly!"
    assert WordJudge().count(EVENTS, told) == EventCounts(3, missed=1, incorrect=0, hallucinated=1)
    assert WordJudge().count(EVENTS, "A bell.") == EventCounts(3, missed=2, incorrect=1, hallucinated=0)
    assert WordJudge().count(EVENTS, "") == EventCounts(3, missed=3, incorrect=0, hallucinated=0)
    assert WordJudge().count(EVENTS, ". ".join(EVENTS)).wrong == 0


@given(st.lists(st.text(max_size=20), max_size=4), st.text(max_size=80))
def test_any_caption_is_counted(events: list[str], caption: str) -> None:
    counts = WordJudge().count(events, caption)
    assert counts.missed + counts.incorrect <= counts.events == len(events)


def test_rates_divide_by_all_events() -> None:
    result = rates([EventCounts(10, 2, 1, 0), EventCounts(30, 8, 0, 3)])
    assert result == pytest.approx({"missed": 0.25, "hallucinated": 0.1, "total": 0.35})


@pytest.mark.parametrize(
    "text",
    [
        "{'Missed': 1, 'Incorrect': 0, 'Hallucination': 2, 'Missed Event': ['a']}",
        '```json\n{"Missed": 1, "Incorrect": "0", "Hallucination": 2}\n```',
        "Here you are: {'Missed': 1, 'Incorrect': 0, 'Hallucination': 2}.",
    ],
)
def test_an_answer_is_read(text: str) -> None:
    assert parse(text, 3) == EventCounts(3, 1, 0, 2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "none",
        "{}",
        "{'Missed': 4, 'Incorrect': 0, 'Hallucination': 0}",
        "{'Missed': -1}",
        "{f(1): 2}",
        "{'Missed'}",
    ],
)
def test_what_can_not_be_counts_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"answer|counts|malformed"):
        parse(text, 3)


@pytest.fixture
def service() -> Iterator[tuple[str, list[Any], list[tuple[int, str]]]]:
    """(address, requests seen, answers to give)."""
    seen: list[Any] = []
    answers: list[tuple[int, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, self.headers.get("Authorization"), body))
            code, text = answers.pop(0)
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [{"message": {"content": text}}]}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", seen, answers
    server.shutdown()
    server.server_close()


GOOD = "{'Missed': 1, 'Incorrect': 1, 'Hallucination': 0}"


def test_a_service_is_asked(service: tuple[str, list[Any], list[tuple[int, str]]]) -> None:
    address, seen, answers = service
    answers.append((200, GOOD))
    assert EndpointJudge(address, "gpt-4.1", key="secret").count(EVENTS, "A bell.") == EventCounts(3, 1, 1, 0)
    path, key, body = seen[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer secret")
    assert (body["model"], body["temperature"]) == ("gpt-4.1", 0)
    assert body["messages"][0]["content"] == instruction(EVENTS, "A bell.")


def test_a_busy_service_and_nonsense_are_asked_again(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    address, seen, answers = service
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    answers += [(429, ""), (200, "I can't"), (200, GOOD)]
    assert EndpointJudge(address, "m").count(EVENTS, "A bell.").missed == 1
    assert [key for _, key, _ in seen] == [None] * 3


def test_a_refusal_is_said_at_once_without_the_key(service: Any) -> None:
    address, seen, answers = service
    answers.append((401, ""))
    with pytest.raises(UsageError, match="returned no counts") as error:
        EndpointJudge(address, "m", key="secret").count(EVENTS, "A bell.")
    assert len(seen) == 1
    assert "401" in str(error.value)
    assert "secret" not in str(error.value)


def test_addresses_are_checked() -> None:
    with pytest.raises(UsageError, match="starts with http"):
        EndpointJudge("file:///etc/passwd", "m")
