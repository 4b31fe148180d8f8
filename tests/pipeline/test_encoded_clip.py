"""A held clip: one decoding, one run of each encoder, and the answers of a clip that is not held."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.encoders import work_of_encoders
from tests.pipeline.test_ask import write_silent_picture, write_sound

from omnisift import Pipeline, load
from omnisift.errors import NotFound, UsageError
from omnisift.pipeline import ask as asking
from omnisift.pipeline import encoded_clip as holding
from omnisift.pipeline.ask import compressor_for
from omnisift.pipeline.prompt import build_inputs
from omnisift.pipeline.stopwatch import encoders_of

QUESTIONS = ("What colour is the circle?", "Which sound goes with the circle?", "Wie viele?  Shapes -- 3, 4", "?")


@pytest.fixture(scope="module")
def quarter() -> Pipeline:
    return load("nano", retain=0.25)


def test_encoders_run_once_and_answers_are_the_same(quarter: Pipeline, clip: Path) -> None:
    plain = [quarter.ask(clip, question).text for question in QUESTIONS]
    held = quarter.encode(clip)
    assert not held.is_encoded
    with work_of_encoders(quarter.host) as runs:
        answers = [quarter.ask(held, question) for question in QUESTIONS]
    assert runs == {"encode_video": 1, "encode_audio": 1}
    assert held.is_encoded
    assert [answer.text for answer in answers] == plain
    assert held.read_seconds > 0
    assert answers[1].report.tokens == quarter.ask(clip, QUESTIONS[1]).report.tokens


def test_other_methods_of_the_same_host_share_it(quarter: Pipeline, clip: Path) -> None:
    full = Pipeline(quarter.host, None)
    plain, held = full.ask(clip, QUESTIONS[0]), quarter.encode(clip)
    quarter.ask(held, QUESTIONS[1])
    with work_of_encoders(quarter.host) as runs:
        again = full.ask(held, QUESTIONS[0])
    assert runs == {"encode_video": 0, "encode_audio": 0}
    assert again.text == plain.text
    assert again.report.tokens == plain.report.tokens


def test_the_processor_sees_the_clip_once(quarter: Pipeline, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def build(*arguments: object):
        calls.append(arguments)
        return build_inputs(*arguments)

    monkeypatch.setattr(holding, "build_inputs", build)
    monkeypatch.setattr(asking, "build_inputs", build)
    held = quarter.encode(clip)
    for question in QUESTIONS:
        quarter.ask(held, question)
    assert len(calls) == 1


@pytest.mark.parametrize("kind", ["both", "picture", "sound"])
@pytest.mark.parametrize("system", [None, "Answer in one word."])
def test_prompts_are_those_of_the_processor(
    quarter: Pipeline, clip: Path, tmp_path: Path, kind: str, system: str | None
) -> None:
    path = {
        "both": lambda: clip,
        "picture": lambda: write_silent_picture(tmp_path / "silent.mp4"),
        "sound": lambda: write_sound(tmp_path / "tone.wav"),
    }[kind]()
    held = quarter.encode(path)
    for question in QUESTIONS:
        expected = build_inputs(quarter.host.processor, held.media, question, system)
        found = held.inputs(question, system)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(torch.as_tensor(found[name]), torch.as_tensor(value)), name


def test_a_method_that_listens_makes_the_encoders_run(quarter: Pipeline, clip: Path) -> None:
    listening = Pipeline(quarter.host, compressor_for(quarter.host, "omnizip", quarter.compressor.budget))
    plain, held = listening.ask(clip, QUESTIONS[0]), quarter.encode(clip)
    quarter.ask(held, QUESTIONS[1])
    with work_of_encoders(quarter.host) as runs:
        again = listening.ask(held, QUESTIONS[0])
    assert runs == {"encode_video": 1, "encode_audio": 1}
    assert (again.text, again.report.tokens) == (plain.text, plain.report.tokens)
    assert quarter.ask(held, QUESTIONS[0]).text == quarter.ask(clip, QUESTIONS[0]).text


def test_the_model_is_left_as_it_was(quarter: Pipeline, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thinker = quarter.host.thinker
    before = {name: dict(vars(module)) for name, module in thinker.named_modules()}
    held = quarter.encode(clip)
    quarter.ask(held, QUESTIONS[0])
    quarter.ask(held, QUESTIONS[0])
    monkeypatch.setattr(thinker, "generate", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        quarter.ask(held, QUESTIONS[0])
    monkeypatch.undo()
    for name, module in thinker.named_modules():
        assert vars(module).keys() == before[name].keys(), name
        assert not module._forward_hooks, name
        assert not module._forward_pre_hooks, name


def test_what_a_wrapper_left_on_an_encoder_stays(quarter: Pipeline, clip: Path) -> None:
    encoder = encoders_of(quarter.host.thinker)["encode_video"][0]
    wrapped = encoder.forward
    encoder.forward = wrapped
    try:
        held = quarter.encode(clip)
        texts = {quarter.ask(held, QUESTIONS[0]).text for _ in range(3)}
        assert len(texts) == 1
        assert vars(encoder)["forward"] is wrapped
    finally:
        del encoder.forward


def test_errors(quarter: Pipeline, clip: Path) -> None:
    held = quarter.encode(clip)
    with pytest.raises(UsageError, match="another model"):
        load("nano").ask(held, QUESTIONS[0])
    with pytest.raises(UsageError, match="empty"):
        quarter.ask(held, " ")
    with pytest.raises(UsageError, match="stands for a clip"):
        quarter.ask(held, "What is <|VIDEO|>?")
    with pytest.raises(UsageError, match="stands for a clip"):
        quarter.ask(clip, "What is <|AUDIO|>?")
    with pytest.raises(NotFound):
        quarter.encode("missing.mp4")
    assert quarter.ask(held, QUESTIONS[0]).text
