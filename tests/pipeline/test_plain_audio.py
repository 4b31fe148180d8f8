"""A file with sound alone, compressed: every way to ask about it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.helpers.models import work_of_encoders
from tests.pipeline.test_ask import write_audio

from omnisift import Pipeline, load
from omnisift.errors import CompressorError, TooBig
from omnisift.world import make_scene, write_clip

QUESTION, OTHER = "Is a beep heard?", "Is there a fall?"


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return load("nano", compressor="resift", retain=0.25, compress_audio=True, device="cpu")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_audio(tmp_path_factory.mktemp("sound") / "tone.wav", 5.0)


def test_a_quarter_of_its_tokens_is_kept(pipe: Pipeline, sound: Path) -> None:
    answer = pipe.ask(sound, QUESTION)
    tokens = answer.report.tokens
    assert (tokens.video, tokens.audio, tokens.audio_kept) == (0, 125, 13 + 13 + 7)
    assert tokens.prompt_kept == tokens.prompt - 92
    assert not any("kept in full" in notice for notice in answer.report.notices)
    assert answer.to_dict()["compress_audio"] is True
    plain = pipe.with_compressor("resift", retain=0.25).ask(sound, QUESTION).report
    assert plain.tokens.audio_kept == plain.tokens.audio == 125
    assert (
        "audio outside a video is kept in full; --compress-audio (compress_audio=True) compresses it" in plain.notices
    )


def test_a_number_of_tokens(pipe: Pipeline, sound: Path) -> None:
    exact = pipe.with_compressor("uniform:mode=pool", tokens=31, compress_audio=True)
    assert exact.ask(sound, QUESTION).report.tokens.audio_kept == 31
    few = pipe.with_compressor("resift", tokens=2, compress_audio=True)  # fewer than its chunks
    assert few.ask(sound, QUESTION).report.tokens.audio_kept == 2
    guided = pipe.with_compressor("omnisift", retain=0.25, compress_audio=True)
    with pytest.raises(CompressorError, match="audio without video: choose resift without a selector"):
        guided.ask(sound, QUESTION)


@pytest.mark.parametrize("compressor", ["resift", "attended", "v_cast"])
def test_batches_and_encoded_clips_answer_as_single_questions(
    pipe: Pipeline, sound: Path, tmp_path: Path, compressor: str
) -> None:
    one = pipe.with_compressor(compressor, tokens=40, compress_audio=True)
    write_clip(make_scene(0), tmp_path / "clip.mp4")
    short = write_audio(tmp_path / "short.wav", 3.0)
    prompts = [(sound, QUESTION), (tmp_path / "clip.mp4", QUESTION), (short, OTHER), (sound, OTHER)]
    singles = [one.ask(*prompt) for prompt in prompts]
    batch = one.ask_batch(prompts)
    assert [answer.text for answer in batch] == [answer.text for answer in singles]
    assert [answer.report.tokens for answer in batch] == [answer.report.tokens for answer in singles]
    assert [answer.report.tokens.audio_kept + answer.report.tokens.video_kept for answer in batch] == [40] * 4
    # Several questions about one file share its prompt, so that even methods that read the encoder's attention need no
    # other run.
    encoded = one.encode(sound)
    assert one.ask(encoded, QUESTION).text == singles[0].text
    with work_of_encoders(one.host) as runs:
        again = one.ask(encoded, OTHER)
    assert (again.text, again.report.tokens) == (singles[3].text, singles[3].report.tokens)
    assert runs["encode_audio"] == 0


def test_the_context_holds_what_is_kept(pipe: Pipeline, sound: Path) -> None:
    small = replace(pipe.host, max_length=60)
    assert Pipeline(small, pipe.compressor).ask(sound, QUESTION, max_new_tokens=4)
    with pytest.raises(TooBig, match=r"has 4\d tokens after compression \(13\d before\) .*; lower retain"):
        Pipeline(replace(pipe.host, max_length=45), pipe.compressor).ask(sound, QUESTION, max_new_tokens=4)
    plain = pipe.with_compressor("resift", retain=0.25).compressor
    with pytest.raises(TooBig, match=r"has 13\d tokens and .*compress the audio \(compress_audio=True, --compress-aud"):
        Pipeline(small, plain).ask(sound, QUESTION, max_new_tokens=4)
