"""Several prompts in one call answer as each alone does, and are counted apart."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest

from omnisift.errors import UsageError
from omnisift.pipeline import Pipeline, load
from omnisift.pipeline.ask_batch import ask_batch, kind
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


def test_three_at_once_are_three_alone(pipeline: Pipeline, clips: list[Path]) -> None:
    asked = [(read_for(pipeline.host.processor, path), text) for path, text in zip(clips, QUESTIONS, strict=True)]
    together = ask_batch(pipeline, asked, max_new_tokens=48)
    alone = [pipeline.ask(path, text, max_new_tokens=48) for path, text in zip(clips, QUESTIONS, strict=True)]
    assert [reply.text for reply in together] == [answer.text for answer in alone]
    assert [reply.tokens for reply in together] == [answer.report.tokens for answer in alone]
    assert len({reply.tokens.prompt for reply in together}) > 1  # the rows were padded
    assert all(reply.grid == (6, 4, 4) and reply.mel == 600 for reply in together)
    assert all(reply.together == 3 and reply.seconds["prefill"] > 0 for reply in together)


def test_sound_alone_is_read_whole(pipeline: Pipeline, sound: Path) -> None:
    media = read_for(pipeline.host.processor, sound)
    assert kind(media) == (False, True)
    (reply,) = ask_batch(pipeline, [(media, "What is heard?")], max_new_tokens=4)
    assert (reply.tokens.video, reply.tokens.audio_kept) == (0, reply.tokens.audio)
    assert (reply.grid, reply.mel) == ((0, 0, 0), 100)


def test_kinds_do_not_mix(pipeline: Pipeline, clips: list[Path], sound: Path) -> None:
    media = [read_for(pipeline.host.processor, path) for path in (clips[0], sound)]
    with pytest.raises(UsageError, match="group them by `kind`"):
        ask_batch(pipeline, [(one, "What?") for one in media])
    with pytest.raises(UsageError):
        ask_batch(pipeline, [])
