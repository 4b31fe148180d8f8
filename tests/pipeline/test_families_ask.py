"""`load`, `ask` and `inputs` with a tiny random checkpoint of each family and its own processor."""

from __future__ import annotations

import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers.family_folders import FACTORS, save_family
from tests.helpers.models import work_of_encoders
from transformers import AutoProcessor
from transformers.video_utils import VideoMetadata
from typer.testing import CliRunner

import omnisift
from omnisift.cli.app import app
from omnisift.errors import CheckpointError, ModelError, NoVideo, UnsupportedCall, UsageError
from omnisift.media import Media
from omnisift.pipeline import Pipeline
from omnisift.pipeline.clip_format import frame_limits
from omnisift.pipeline.preparation import normalize_patches
from omnisift.pipeline.prompt import build_inputs

QUESTIONS = ["What colour is the circle?", "Which sound is heard first?", "What happens in the clip at the end?"]
DEAF = [name for name in FACTORS if "omni" not in name]
FAST = ["qwen2_5_vl", "qwen3_vl"]
ALL = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in FACTORS]


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's checkpoint, made when it is asked for."""
    root = tmp_path_factory.mktemp("families")

    def folder(name: str) -> Path:
        return root / name if (root / name).exists() else save_family(name, root / name)

    return folder


def options(name: str) -> dict[str, Any]:
    """Small frames and short answers."""
    return {"max_pixels": 16 * FACTORS[name] ** 2, "max_new_tokens": 5}


def media_of(pipe: Pipeline, name: str, clip: Path, **more: Any) -> Media:
    return pipe.read(clip, max_pixels=options(name)["max_pixels"], **more)


@pytest.mark.parametrize("name", ALL)
def test_the_command_answers_about_a_clip(folder_of: Callable[[str], Path], clips: list[Path], name: str) -> None:
    given = ["ask", str(clips[0]), QUESTIONS[0], "--model", str(folder_of(name)), "--compressor", "v_cast", "--json"]
    result = CliRunner().invoke(app, [*given, "--max-new-tokens", "4", "--max-pixels", str(16 * FACTORS[name] ** 2)])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["answer"]
    assert report["tokens"]["video_kept"] < report["tokens"]["video"]
    assert (report["tokens"]["audio"] > 0) == (name not in DEAF)
    left_out = [notice for notice in report["notices"] if "audio is left out" in notice]
    assert len(left_out) == (name in DEAF)


@pytest.mark.parametrize("fps", [2.0, 1.5])
@pytest.mark.parametrize("name", ALL)
def test_inputs_are_those_of_the_own_processor(
    folder_of: Callable[[str], Path], clips: list[Path], name: str, fps: float
) -> None:
    """The same frames, which it may scale itself, and the same frame rate."""
    processor = AutoProcessor.from_pretrained(folder_of(name))
    pipe = omnisift.load(folder_of(name), compressor=None)
    media = media_of(pipe, name, clips[0], fps=fps)
    found = omnisift.inputs(processor, media, QUESTIONS[0])
    assert media.images is not None
    count, height, width = media.images.shape[:3]
    kind, size = "video", {"shortest_edge": height * width, "longest_edge": height * width}
    if name in DEAF:
        if name.startswith("qwen3"):
            size = dict.fromkeys(size, height * width * (count + count % 2))
        metadata = VideoMetadata(total_num_frames=count, fps=media.fps, frames_indices=list(range(count)))
        more: dict[str, Any] = {
            "videos_kwargs": {"video_metadata": [metadata], "do_sample_frames": False, "size": size}
        }
    else:
        videos = {"fps": media.fps, "do_sample_frames": False, "size": size}
        more = {"videos_kwargs": videos, "audio": [media.waveform], **omnisift_audio(processor)}
    content = [{"type": kind, kind: "-"}, {"type": "text", "text": QUESTIONS[0]}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    frames = torch.from_numpy(media.images).permute(0, 3, 1, 2)
    expected = processor(text=[text], videos=[frames], return_tensors="pt", **more)
    assert set(found) - {"use_audio_in_video"} == set(expected)
    for key, value in expected.items():
        assert torch.equal(torch.as_tensor(found[key]), torch.as_tensor(value)), key


def omnisift_audio(processor: Any) -> dict[str, Any]:
    if hasattr(type(processor), "load_audio_from_video"):
        return {"load_audio_from_video": True, "audio_from_video_indices": [0]}
    return {"use_audio_in_video": True}


@pytest.mark.parametrize("compressor", [None, "v_cast", "evs"])
@pytest.mark.parametrize("name", ALL)
def test_a_batch_equals_single_calls(
    folder_of: Callable[[str], Path], clips: list[Path], name: str, compressor: str | None
) -> None:
    pipe = omnisift.load(folder_of(name), compressor=compressor)
    prompts = list(zip(clips, QUESTIONS, strict=True))
    batch = pipe.ask_batch(prompts, **options(name))
    single = [pipe.ask(path, text, **options(name)) for path, text in prompts]
    assert [answer.report.tokens for answer in batch] == [answer.report.tokens for answer in single]
    assert [answer.text for answer in batch] == [answer.text for answer in single]
    assert len({answer.report.tokens.prompt for answer in batch}) > 1  # the rows were padded


@pytest.mark.parametrize("compressor", [None, "v_cast"])
@pytest.mark.parametrize("name", ALL)
def test_several_questions_on_one_encoded_clip(
    folder_of: Callable[[str], Path], clips: list[Path], name: str, compressor: str | None
) -> None:
    pipe = omnisift.load(folder_of(name), compressor=compressor)
    encoded = pipe.encode(clips[0], max_pixels=options(name)["max_pixels"])
    with work_of_encoders(pipe.host) as runs:
        one_by_one = [pipe.ask(encoded, question, **options(name)) for question in QUESTIONS]
        together = pipe.ask_batch([(encoded, question) for question in QUESTIONS], **options(name))
    assert set(runs.values()) == {1}
    expected = [pipe.ask(clips[0], question, **options(name)) for question in QUESTIONS]
    for answers in (one_by_one, together):
        assert [answer.text for answer in answers] == [answer.text for answer in expected]
        assert [answer.report.tokens for answer in answers] == [answer.report.tokens for answer in expected]
    assert one_by_one[-1].report.notices == expected[-1].report.notices


@pytest.mark.parametrize("name", ALL)
def test_the_compressor_is_told_when_frames_are(folder_of: Callable[[str], Path], clips: list[Path], name: str) -> None:
    pipe = omnisift.load(folder_of(name), compressor="v_cast")
    streams: list[Any] = []
    assert pipe.compressor is not None
    handle = pipe.compressor.register_forward_pre_hook(lambda _module, args: streams.append(args[0]))
    media = media_of(pipe, name, clips[0], fps=1.0)
    pipe.ask(media, QUESTIONS[0], max_new_tokens=1)
    handle.remove()
    video = streams[0].modality == int(omnisift.Modality.VIDEO)
    times = streams[0].time[video].unique()
    assert torch.allclose(times, torch.arange(len(times)) * media.seconds_per_grid)
    assert media.seconds_per_grid == 2.0


@pytest.mark.parametrize("name", FAST)
def test_audio_alone_is_refused(folder_of: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    path = tmp_path / "tone.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(b"\0\x10" * 16_000)
    pipe = omnisift.load(folder_of(name), compressor=None)
    heard = Media.from_arrays(waveform=np.zeros(16_000, np.float32), sample_rate=16_000)
    for clip in (path, heard):
        with pytest.raises(NoVideo, match="audio alone"):
            pipe.ask(clip, QUESTIONS[0])
        with pytest.raises(NoVideo, match="audio alone"):
            omnisift.inputs(pipe.host.processor, clip, QUESTIONS[0])


@pytest.mark.parametrize("system", [None, "Answer in one word."])
@pytest.mark.parametrize("name", ALL)
def test_prompts_of_an_encoded_clip_are_those_of_the_processor(
    folder_of: Callable[[str], Path], clips: list[Path], name: str, system: str | None
) -> None:
    pipe = omnisift.load(folder_of(name), compressor=None)
    encoded = pipe.encode(clips[0], max_pixels=options(name)["max_pixels"])
    for question in QUESTIONS:
        expected = build_inputs(pipe.host.processor, encoded.media, question, system)
        found = normalize_patches(pipe.host.processor, encoded.prompt(question, system).inputs)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert torch.equal(torch.as_tensor(found[key]), torch.as_tensor(value)), key


def test_frames_of_another_size_are_refused(folder_of: Callable[[str], Path]) -> None:
    pipe = omnisift.load(folder_of("qwen3_vl"), compressor=None)
    frames = np.zeros((4, 90, 120, 3), np.uint8)
    with pytest.raises(UsageError, match="multiples of 32"):
        pipe.ask(Media.from_arrays(frames, fps=2.0), QUESTIONS[0])
    answer = pipe.ask(Media.from_arrays(frames, fps=2.0, factor=32, min_pixels=1024), QUESTIONS[0], max_new_tokens=1)
    assert answer.report.tokens.video > 0


@pytest.mark.parametrize("name", ALL)
def test_pixels_of_a_frame(folder_of: Callable[[str], Path], name: str) -> None:
    """At most 320 tokens by default; multiples of a token's side."""
    processor = AutoProcessor.from_pretrained(folder_of(name))
    lowest, highest = frame_limits(processor, None)
    assert highest == 320 * FACTORS[name] ** 2
    assert lowest == (1 if name.startswith("qwen3") and name in DEAF else 128) * FACTORS[name] ** 2
    assert frame_limits(processor, 4096) == (min(lowest, 4096), 4096)


def test_the_size_of_a_clip_as_a_whole(folder_of: Callable[[str], Path], clips: list[Path]) -> None:
    """Qwen3-VL states one for all frames together; it holds unless the size of a frame is given."""
    pipe = omnisift.load(folder_of("qwen3_vl"), compressor=None)
    video = pipe.host.processor.video_processor
    per_frame = 8 * 32 * 32
    count = len(pipe.read(clips[0]).times)
    video.size = {"shortest_edge": 32 * 32, "longest_edge": count * per_frame}
    images = pipe.read(clips[0]).images
    assert images is not None
    assert images.shape[1] * images.shape[2] <= per_frame
    assert omnisift.inputs(pipe.host.processor, clips[0], QUESTIONS[0])["video_grid_thw"].prod() <= 4 * 8 * -(
        -count // 2
    )
    larger = pipe.read(clips[0], max_pixels=16 * 32 * 32).images
    assert larger is not None
    assert larger.shape[1] * larger.shape[2] > per_frame
    video.size = {"shortest_edge": 32 * 32, "longest_edge": 32 * 32}
    smallest = pipe.read(clips[0]).images
    assert smallest is not None
    assert smallest.shape[1:3] == (32, 32)


@pytest.mark.parametrize("name", ALL)
def test_a_processor_of_another_model_is_refused(folder_of: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    other = save_family(name, tmp_path / name)
    config = json.loads((other / "config.json").read_text())
    config["video_token_id"] = 0
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="video_token"):
        omnisift.load(other, compressor=None)


@pytest.mark.parametrize("name", ALL)
def test_a_folder_run_and_the_inspector(
    folder_of: Callable[[str], Path], clips: list[Path], tmp_path: Path, name: str
) -> None:
    model = ["--model", str(folder_of(name)), "--compressor", "v_cast"]
    limits = ["--max-new-tokens", "4", "--max-pixels", str(16 * FACTORS[name] ** 2)]
    out = tmp_path / "answers.jsonl"
    command = [
        "run",
        str(clips[0].parent),
        "--task",
        "qa",
        "--question",
        QUESTIONS[0],
        "--out",
        str(out),
        *model,
        *limits,
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows
    assert all(row["answer"] for row in rows)
    page = tmp_path / "page.html"
    command = ["inspect", str(clips[0]), "--question", QUESTIONS[0], "--out", str(page), *model, *limits]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert page.stat().st_size > 0


def test_nothing_is_left_on_the_host(folder_of: Callable[[str], Path], clips: list[Path]) -> None:
    pipe = omnisift.load(folder_of("qwen3_vl"), compressor="v_cast")
    pipe.ask(clips[0], QUESTIONS[0], **options("qwen3_vl"))
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in pipe.host.thinker.modules())


def test_times_under_another_name_are_refused(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    """Qwen2-VL takes no seconds of a frame and Qwen2.5-VL does: their processors differ in that alone."""
    for name, other in (("qwen2_vl", "qwen2_5_vl"), ("qwen2_5_vl", "qwen2_vl")):
        mixed = save_family(name, tmp_path / name)
        AutoProcessor.from_pretrained(folder_of(other)).save_pretrained(mixed)
        with pytest.raises(CheckpointError, match="the files of one model"):
            omnisift.load(mixed, compressor=None)
        result = CliRunner().invoke(app, ["doctor", "--model", str(mixed)])
        assert isinstance(result.exception, CheckpointError)


def test_layers_of_the_vision_encoder_that_do_not_exist(tmp_path: Path) -> None:
    folder = save_family("qwen3_vl", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    for layers in ([0, 1, 99], [0, 1, 1]):
        config["vision_config"]["deepstack_visual_indexes"] = layers
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match="deepstack_visual_indexes"):
            omnisift.load(folder, compressor=None)


def test_a_model_that_somebody_attached_is_not_reported_as_uncompressed(
    folder_of: Callable[[str], Path], clips: list[Path]
) -> None:
    pipe = omnisift.load(folder_of("qwen3_vl"), compressor=None)
    with (
        omnisift.attach(pipe.host.thinker, "v_cast"),
        pytest.raises(ModelError, match="already has a compressor"),
    ):
        pipe.ask(clips[0], QUESTIONS[0], **options("qwen3_vl"))
    assert pipe.ask(clips[0], QUESTIONS[0], **options("qwen3_vl")).text


def test_a_frame_has_at_least_one_token(folder_of: Callable[[str], Path], clips: list[Path]) -> None:
    pipe = omnisift.load(folder_of("qwen3_vl"), compressor=None)
    with pytest.raises(UsageError, match="max_pixels must be at least 1024"):
        pipe.ask(clips[0], QUESTIONS[0], max_pixels=784)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_seconds_of_a_frame_are_positive(folder_of: Callable[[str], Path], clips: list[Path], seconds: float) -> None:
    pipe = omnisift.load(folder_of("qwen3_vl"), compressor=None)
    media = media_of(pipe, "qwen3_vl", clips[0])
    inputs = omnisift.inputs(pipe.host.processor, media, QUESTIONS[0])
    with omnisift.attach(pipe.host.thinker, "v_cast") as attachment:
        attachment.frame_seconds = [seconds]
        with pytest.raises(UnsupportedCall, match="must be above 0"):
            pipe.host.thinker(**inputs)
