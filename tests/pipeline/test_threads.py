"""One model asked from several threads: every answer equals the one that a single thread gets."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import omnisift
from omnisift.errors import ModelError

QUESTIONS = ["What colour is the ball?", "What do you hear?", "Which shape moves?", "When does the bell ring?"]


@pytest.fixture(scope="module")
def pipes() -> list[omnisift.Pipeline]:
    """Pipelines of one host: two methods, and all tokens."""
    pipe = omnisift.load("nano", retain=0.35)
    return [pipe, pipe.with_compressor("attended", retain=0.5), pipe.with_compressor(None)]


def facts(answer: omnisift.Answer) -> tuple[Any, ...]:
    return answer.text, answer.report.tokens, answer.report.compressor


@pytest.mark.parametrize("count", [24, pytest.param(200, marks=pytest.mark.slow)])
def test_eight_threads_get_the_answers_of_one(pipes: list[omnisift.Pipeline], clip: Path, count: int) -> None:
    read, encoded = pipes[0].read(clip), pipes[0].encode(clip)
    sources = [clip, read, encoded] if count > 100 else [read, encoded]
    work = [(pipes[i % 3], sources[i % len(sources)], QUESTIONS[i % 4]) for i in range(count)]

    def ask(task: tuple[omnisift.Pipeline, Any, str]) -> tuple[Any, ...]:
        pipe, source, question = task
        return facts(pipe.ask(source, question, max_new_tokens=4))

    kinds = list(dict.fromkeys((index % 3, index % len(sources), index % 4) for index in range(count)))
    expected = {kind: ask((pipes[kind[0]], sources[kind[1]], QUESTIONS[kind[2]])) for kind in kinds}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, work))
    assert answers == [expected[index % 3, index % len(sources), index % 4] for index in range(count)]


def test_a_callback_may_not_ask_the_same_model(pipes: list[omnisift.Pipeline], clip: Path) -> None:
    media = pipes[0].read(clip)

    def ask_again(stage: str) -> None:
        if stage == "decode":
            pipes[0].ask(media, QUESTIONS[0], max_new_tokens=1)

    with pytest.raises(ModelError, match="already has a compressor"):
        pipes[0].ask(media, QUESTIONS[0], max_new_tokens=2, on_stage=ask_again)
    assert pipes[0].ask(media, QUESTIONS[0], max_new_tokens=1)
