"""A batch answers as single calls do, and each prompt is counted by itself."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest
import torch
from tests.helpers.models import work_of_encoders

from omnisift.errors import BudgetError, UsageError
from omnisift.pipeline import Answer, Pipeline, load

QUESTIONS = ["What colour is the circle?", "Which sound is heard first?", "What happens?"]


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "tone.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(b"\0\x10" * 16_000)
    return path


@pytest.fixture(scope="module", params=[None, "omnisift", "uniform"])
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    return load(compressor=request.param)


def facts(answers: list[Answer]) -> list[tuple[object, ...]]:
    return [(a.text, a.report.tokens, a.report.source, a.report.notices) for a in answers]


def test_a_batch_equals_single_calls(pipeline: Pipeline, clips: list[Path]) -> None:
    prompts = list(zip(clips, QUESTIONS, strict=True))
    batch = pipeline.ask_batch(prompts, max_new_tokens=48)
    single = [pipeline.ask(path, text, max_new_tokens=48) for path, text in prompts]
    assert facts(batch) == facts(single)
    assert len({answer.report.tokens.prompt for answer in batch}) > 1  # the rows were padded
    assert len({answer.report.seconds.prefill for answer in batch}) == 1  # equal shares of one call
    assert all(answer.report.seconds.prefill > 0 for answer in batch)


def test_a_batch_of_one_is_a_single_call(pipeline: Pipeline, clips: list[Path], monkeypatch) -> None:
    calls = []
    generate = pipeline.host.thinker.generate
    monkeypatch.setattr(pipeline.host.thinker, "generate", lambda **inputs: calls.append(inputs) or generate(**inputs))
    media = pipeline.read(clips[0])
    single = pipeline.ask(media, QUESTIONS[0])
    assert facts([single]) == facts(pipeline.ask_batch([(media, QUESTIONS[0])]))
    first, second = calls
    assert first.keys() == second.keys()
    for name in ("input_ids", "attention_mask", "pixel_values_videos", "video_second_per_grid", "input_features"):
        assert torch.equal(torch.as_tensor(first[name]), torch.as_tensor(second[name])), name
    assert first["attention_mask"].all()


@pytest.mark.parametrize("order", [(0, 1, 0, 0), (0, 0), (1, 0, 1, 0)], ids=str)
def test_questions_on_an_encoded_clip_share_its_encoding(
    pipeline: Pipeline, clips: list[Path], order: tuple[int, ...]
) -> None:
    encoded = [pipeline.encode(path) for path in clips[:2]]
    questions = (*QUESTIONS, "How many shapes are there?")[: len(order)]
    with work_of_encoders(pipeline.host) as runs:
        batch = pipeline.ask_batch([(encoded[index], text) for index, text in zip(order, questions, strict=True)])
    assert runs == {"encode_video": 1, "encode_audio": 1}  # one call for the first question of each clip
    single = [pipeline.ask(clips[index], text) for index, text in zip(order, questions, strict=True)]
    assert facts(batch) == facts(single)
    firsts = [order.index(index) == number for number, index in enumerate(order)]
    assert [answer.report.seconds.encode > 0 for answer in batch] == firsts
    # Encoded clips and clips that are not mix.
    mixed = pipeline.ask_batch([(encoded[0], questions[0]), (clips[1], questions[1])])
    assert facts(mixed) == facts([pipeline.ask(clips[0], questions[0]), pipeline.ask(clips[1], questions[1])])


def test_a_method_that_needs_the_encoders_runs_them_for_each_prompt(clips: list[Path]) -> None:
    probing = load(compressor="omnizip")
    encoded = probing.encode(clips[0], hold_bytes=0)
    batch = probing.ask_batch([(encoded, text) for text in QUESTIONS])
    assert facts(batch) == facts([probing.ask(clips[0], text) for text in QUESTIONS])
    assert all(answer.report.seconds.encode > 0 for answer in batch)


def test_a_number_of_tokens_is_kept_of_every_clip(clips: list[Path]) -> None:
    pipeline = load(tokens=99)
    assert "retain 99 tokens" in repr(pipeline)
    for name in ("omnisift", "v_cast", "joint"):
        exact = pipeline.with_compressor(name, tokens=70)
        answers = exact.ask_batch([(clip, "How many shapes are there?") for clip in clips])
        kept = [answer.report.tokens.video_kept + answer.report.tokens.audio_kept for answer in answers]
        assert kept == [70] * len(clips)
    everything = pipeline.with_compressor("v_cast", tokens=10**6).ask(clips[0], "How many shapes are there?")
    assert everything.report.retained_ratio == 1
    assert everything.text == pipeline.with_compressor("none").ask(clips[0], "How many shapes are there?").text
    with pytest.raises(BudgetError, match="tokens was given with retain"):
        pipeline.with_compressor("v_cast", retain=0.5, tokens=70)


def test_audio_without_video_is_not_compressed(pipeline: Pipeline, sound: Path) -> None:
    (answer,) = pipeline.ask_batch([(sound, "What is heard?")], max_new_tokens=4)
    tokens = answer.report.tokens
    assert (tokens.video, tokens.audio_kept) == (0, tokens.audio)


def test_clips_of_different_modalities_are_answered_in_calls_of_their_own(
    pipeline: Pipeline, clips: list[Path], sound: Path
) -> None:
    prompts = [(sound, "What is heard?"), (clips[0], QUESTIONS[0]), (sound, "Is a beep heard?")]
    batch = pipeline.ask_batch(prompts, max_new_tokens=8)
    assert facts(batch) == facts([pipeline.ask(path, text, max_new_tokens=8) for path, text in prompts])


def test_errors(pipeline: Pipeline, clips: list[Path]) -> None:
    assert pipeline.ask_batch([]) == []
    with pytest.raises(UsageError, match="question is empty"):
        pipeline.ask_batch([(clips[0], QUESTIONS[0]), (clips[0], " ")])
    with pytest.raises(UsageError, match="max_new_tokens"):
        pipeline.ask_batch([(clips[0], QUESTIONS[0])], max_new_tokens=0)
