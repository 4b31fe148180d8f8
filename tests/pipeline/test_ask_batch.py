"""A batch answers as single calls do, and each prompt is counted by itself."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest

from omnisift.errors import UsageError
from omnisift.pipeline import Pipeline, load
from omnisift.pipeline.ask_batch import ask_batch, modalities
from omnisift.pipeline.prompt import read_for
from omnisift.world import make_scene, write_clip

QUESTIONS = ["What colour is the circle?", "Which sound is heard first?", "What happens?"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    paths = [folder / f"{seed}.mp4" for seed in (3, 4, 5)]
    for seed, path in zip((3, 4, 5), paths, strict=True):
        write_clip(make_scene(seed, split="test"), path)
    return paths


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


def test_a_batch_equals_single_calls(pipeline: Pipeline, clips: list[Path]) -> None:
    prompts = [(read_for(pipeline.host.processor, path), text) for path, text in zip(clips, QUESTIONS, strict=True)]
    batch = ask_batch(pipeline, prompts, max_new_tokens=48)
    single = [pipeline.ask(path, text, max_new_tokens=48) for path, text in zip(clips, QUESTIONS, strict=True)]
    assert [reply.text for reply in batch] == [answer.text for answer in single]
    assert [reply.tokens for reply in batch] == [answer.report.tokens for answer in single]
    assert len({reply.tokens.prompt for reply in batch}) > 1  # the rows were padded
    assert all(reply.grid == (6, 4, 4) and reply.mel_frames == 600 for reply in batch)
    assert all(reply.batch_size == 3 and reply.seconds["prefill"] > 0 for reply in batch)


def test_audio_without_video_is_not_compressed(pipeline: Pipeline, sound: Path) -> None:
    media = read_for(pipeline.host.processor, sound)
    assert modalities(media) == (False, True)
    (reply,) = ask_batch(pipeline, [(media, "What is heard?")], max_new_tokens=4)
    assert (reply.tokens.video, reply.tokens.audio_kept) == (0, reply.tokens.audio)
    assert (reply.grid, reply.mel_frames) == ((0, 0, 0), 100)


def test_modalities_do_not_mix(pipeline: Pipeline, clips: list[Path], sound: Path) -> None:
    media = [read_for(pipeline.host.processor, path) for path in (clips[0], sound)]
    with pytest.raises(UsageError, match="group them by `modalities`"):
        ask_batch(pipeline, [(item, "What?") for item in media])
    with pytest.raises(UsageError, match="a batch needs clips"):
        ask_batch(pipeline, [])
