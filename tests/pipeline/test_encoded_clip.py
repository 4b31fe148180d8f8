"""An encoded clip: one decoding, one run of each encoder, and the same answers as without it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.helpers.models import work_of_encoders
from tests.pipeline.test_ask import write_audio, write_silent_video

from omnisift import Pipeline, load
from omnisift.errors import NotFound, UsageError
from omnisift.pipeline import encoded_clip as encoded_clip_module
from omnisift.pipeline.method import compressor_for
from omnisift.pipeline.preparation import normalize_patches
from omnisift.pipeline.prompt import build_compact_inputs, build_inputs
from omnisift.pipeline.stopwatch import encoders_of

QUESTIONS = ("What colour is the circle?", "Which sound goes with the circle?", "Wie viele?  Shapes -- 3, 4", "?")


@pytest.fixture(scope="module")
def quarter() -> Pipeline:
    return load("nano", retain=0.25)


def test_encoders_run_once_and_answers_are_the_same(quarter: Pipeline, clip: Path) -> None:
    plain = [quarter.ask(clip, question).text for question in QUESTIONS]
    encoded = quarter.encode(clip)
    assert not encoded.is_encoded
    with work_of_encoders(quarter.host) as runs:
        answers = [quarter.ask(encoded, question) for question in QUESTIONS]
    assert runs == {"encode_video": 1, "encode_audio": 1}
    assert encoded.is_encoded
    assert [answer.text for answer in answers] == plain
    assert encoded.read_seconds > 0
    assert answers[1].report.tokens == quarter.ask(clip, QUESTIONS[1]).report.tokens


def test_other_methods_of_the_same_host_share_it(quarter: Pipeline, clip: Path) -> None:
    full = Pipeline(quarter.host, None)
    plain, encoded = full.ask(clip, QUESTIONS[0]), quarter.encode(clip)
    quarter.ask(encoded, QUESTIONS[1])
    with work_of_encoders(quarter.host) as runs:
        again = full.ask(encoded, QUESTIONS[0])
    assert runs == {"encode_video": 0, "encode_audio": 0}
    assert again.text == plain.text
    assert again.report.tokens == plain.report.tokens


def test_the_processor_sees_the_clip_once(quarter: Pipeline, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def build(*arguments: object):
        calls.append(arguments)
        return build_compact_inputs(*arguments)

    monkeypatch.setattr(encoded_clip_module, "build_compact_inputs", build)
    encoded = quarter.encode(clip)
    for question in QUESTIONS:
        quarter.ask(encoded, question)
    assert len(calls) == 1


@pytest.mark.parametrize("modality", ["both", "video", "audio"])
@pytest.mark.parametrize("system", [None, "Answer in one word."])
def test_prompts_are_those_of_the_processor(
    quarter: Pipeline, clip: Path, tmp_path: Path, modality: str, system: str | None
) -> None:
    path = {
        "both": lambda: clip,
        "video": lambda: write_silent_video(tmp_path / "silent.mp4"),
        "audio": lambda: write_audio(tmp_path / "tone.wav"),
    }[modality]()
    encoded = quarter.encode(path)
    for question in QUESTIONS:
        expected = build_inputs(quarter.host.processor, encoded.media, question, system)
        result = normalize_patches(quarter.host.processor, encoded.prompt(question, system).inputs)
        assert result.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(torch.as_tensor(result[name]), torch.as_tensor(value)), name


def test_a_method_that_needs_the_encoders_makes_them_run(quarter: Pipeline, clip: Path) -> None:
    probing = Pipeline(quarter.host, compressor_for(quarter.host, "omnizip", quarter.compressor.budget))
    plain, encoded = probing.ask(clip, QUESTIONS[0]), quarter.encode(clip)
    quarter.ask(encoded, QUESTIONS[1])
    with work_of_encoders(quarter.host) as runs:
        again = probing.ask(encoded, QUESTIONS[0])
    assert runs == {"encode_video": 1, "encode_audio": 1}
    assert (again.text, again.report.tokens) == (plain.text, plain.report.tokens)
    assert quarter.ask(encoded, QUESTIONS[0]).text == quarter.ask(clip, QUESTIONS[0]).text


def test_the_model_is_left_as_it_was(quarter: Pipeline, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thinker = quarter.host.thinker
    before = {name: dict(vars(module)) for name, module in thinker.named_modules()}
    encoded = quarter.encode(clip)
    quarter.ask(encoded, QUESTIONS[0])
    quarter.ask(encoded, QUESTIONS[0])
    monkeypatch.setattr(thinker, "generate", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        quarter.ask(encoded, QUESTIONS[0])
    monkeypatch.undo()
    for name, module in thinker.named_modules():
        assert vars(module).keys() == before[name].keys(), name
        assert not module._forward_hooks, name
        assert not module._forward_pre_hooks, name


def test_a_wrapped_forward_of_an_encoder_stays(quarter: Pipeline, clip: Path) -> None:
    encoder = encoders_of(quarter.host.thinker)["encode_video"]
    wrapped = encoder.forward
    encoder.forward = wrapped
    try:
        encoded = quarter.encode(clip)
        texts = {quarter.ask(encoded, QUESTIONS[0]).text for _ in range(3)}
        assert len(texts) == 1
        assert vars(encoder)["forward"] is wrapped
    finally:
        del encoder.forward


def test_errors(quarter: Pipeline, clip: Path) -> None:
    encoded = quarter.encode(clip)
    with pytest.raises(UsageError, match="another model"):
        load("nano").ask(encoded, QUESTIONS[0])
    with pytest.raises(UsageError, match="empty"):
        quarter.ask(encoded, " ")
    with pytest.raises(UsageError, match="stands for a clip"):
        quarter.ask(encoded, "What is <|VIDEO|>?")
    with pytest.raises(UsageError, match="stands for a clip"):
        quarter.ask(clip, "What is <|AUDIO|>?")
    with pytest.raises(NotFound):
        quarter.encode("missing.mp4")
    assert quarter.ask(encoded, QUESTIONS[0]).text


@pytest.mark.parametrize("compressor", [None, "omnisift", "uniform"])
@pytest.mark.parametrize("modality", ["both", "video", "audio"])
def test_logits_are_bit_equal(
    quarter: Pipeline, clip: Path, tmp_path: Path, compressor: str | None, modality: str
) -> None:
    path = {
        "both": lambda: clip,
        "video": lambda: write_silent_video(tmp_path / "silent.mp4"),
        "audio": lambda: write_audio(tmp_path / "tone.wav"),
    }[modality]()
    pipeline = quarter.with_compressor(compressor, retain=0.25)
    encoded = pipeline.encode(path, hold_bytes=0)
    pipeline.ask(encoded, QUESTIONS[1], max_new_tokens=1)

    def logits(media: object) -> list[torch.Tensor]:
        outputs: list[torch.Tensor] = []
        head = pipeline.host.thinker.lm_head
        handle = head.register_forward_hook(lambda _module, _args, output: outputs.append(output.clone()))
        pipeline.ask(media, QUESTIONS[0], max_new_tokens=4)
        handle.remove()
        return outputs

    for plain, reused in zip(logits(path), logits(encoded), strict=True):
        assert torch.equal(plain, reused)
