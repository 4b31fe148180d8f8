"""`load`, `ask` and `inputs` with tiny random checkpoints of the families beside Qwen's and their own processors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers.more_folders import NAMES, save_more
from transformers import AutoProcessor
from transformers.video_utils import VideoMetadata
from typer.testing import CliRunner

import omnisift
from omnisift.cli.app import app
from omnisift.errors import CheckpointError, NoVideo, UnsupportedModel, UsageError
from omnisift.inspector import inspect_clip
from omnisift.pipeline.prompt import build_inputs
from omnisift.world import make_question, make_scene

QUESTIONS = ["What colour is the circle?", "Which sound is heard first?", "What happens in the clip at the end?"]
HEARING = ["gemma4", "gemma4_unified"]
FAST = ["gemma4", "llava_onevision"]
ALL = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
each_family = pytest.mark.parametrize("name", ALL)
each_hearing = pytest.mark.parametrize("name", ["gemma4", pytest.param("gemma4_unified", marks=pytest.mark.slow)])
FolderOf = Callable[[str], Path]


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> FolderOf:
    """The folder of a family's checkpoint, made when it is asked for."""
    root = tmp_path_factory.mktemp("more-families")

    def folder(name: str) -> Path:
        return root / name if (root / name).exists() else save_more(name, root / name)

    return folder


def ask(folder: Path, *more: str) -> dict[str, Any]:
    given = ["ask", "--model", str(folder), "--compressor", "v_cast", "--json", "--max-new-tokens", "4", *more]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    return report


@each_family
def test_the_command_answers_about_a_clip(folder_of: FolderOf, clips: list[Path], name: str) -> None:
    report = ask(folder_of(name), str(clips[0]), QUESTIONS[0])
    assert report["answer"]
    tokens = report["tokens"]
    assert tokens["video_kept"] + tokens["audio_kept"] == pytest.approx(
        0.25 * (tokens["video"] + tokens["audio"]), abs=9
    )
    assert (tokens["audio"] > 0) == (name in HEARING)
    notices = [notice for notice in report["notices"] if "audio is left out" not in notice]
    assert notices == []


@pytest.mark.parametrize("fps", [2.0, 1.5])
@each_family
def test_inputs_are_those_of_the_own_processor(folder_of: FolderOf, clips: list[Path], name: str, fps: float) -> None:
    """The same images, which it scales itself where it always does, their times, and a token of beginning that is not
    repeated."""
    processor = AutoProcessor.from_pretrained(folder_of(name))
    media = omnisift.load(folder_of(name), compressor=None).read(clips[0], fps=fps)
    found = omnisift.inputs(processor, media, QUESTIONS[0])
    assert media.images is not None
    count = len(media.images)
    metadata = VideoMetadata(total_num_frames=count, fps=media.fps, frames_indices=list(range(count)))
    # A frame of GLM has the size that the library chose; its processor would choose that of a clip as a whole.
    scaling = {"do_resize": False} if name.startswith("glm") else {}
    more: dict[str, Any] = {"videos_kwargs": {"video_metadata": [metadata], "do_sample_frames": False, **scaling}}
    content: list[dict[str, Any]] = [{"type": "video", "video": "-"}]
    if name in HEARING:
        more["audio"] = [media.waveform]
        content.append({"type": "audio", "audio": "-"})
    content.append({"type": "text", "text": QUESTIONS[0]})
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    frames = torch.from_numpy(media.images).permute(0, 3, 1, 2)
    if processor.tokenizer.bos_token:
        more["text_kwargs"] = {"add_special_tokens": False}
    expected = processor(text=[text], videos=[frames], return_tensors="pt", **more)
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert torch.equal(torch.as_tensor(found[key]), torch.as_tensor(value)), key
    ids = found["input_ids"][0]
    if (begin := processor.tokenizer.bos_token_id) is not None:
        assert int((ids == begin).sum()) == 1


@pytest.mark.parametrize("compressor", [None, "v_cast", pytest.param("evs", marks=pytest.mark.slow)])
@each_family
def test_a_batch_equals_single_calls(folder_of: FolderOf, clips: list[Path], name: str, compressor: str | None) -> None:
    """With clips of different lengths, of which LLaVA takes those of one length at a time."""
    pipe = omnisift.load(folder_of(name), compressor=compressor)
    media = [pipe.read(path) for path in clips]
    assert media[0].images is not None
    media[0] = replace(media[0], images=media[0].images[:7], times=media[0].times[:7], indices=media[0].indices[:7])
    prompts = list(zip(media, QUESTIONS, strict=True))
    batch = pipe.ask_batch(prompts, max_new_tokens=5)
    single = [pipe.ask(clip, text, max_new_tokens=5) for clip, text in prompts]
    assert [answer.report.tokens for answer in batch] == [answer.report.tokens for answer in single]
    assert [answer.text for answer in batch] == [answer.text for answer in single]
    assert len({answer.report.tokens.prompt for answer in batch}) > 1


@pytest.mark.parametrize("compressor", [None, "v_cast"])
@each_family
def test_several_questions_on_one_encoded_clip(
    folder_of: FolderOf, clips: list[Path], name: str, compressor: str | None
) -> None:
    pipe = omnisift.load(folder_of(name), compressor=compressor)
    encoded = pipe.encode(clips[0])
    one_by_one = [pipe.ask(encoded, question, max_new_tokens=5) for question in QUESTIONS]
    together = pipe.ask_batch([(encoded, question) for question in QUESTIONS], max_new_tokens=5)
    expected = [pipe.ask(clips[0], question, max_new_tokens=5) for question in QUESTIONS]
    for answers in (one_by_one, together):
        assert [answer.text for answer in answers] == [answer.text for answer in expected]
        assert [answer.report.tokens for answer in answers] == [answer.report.tokens for answer in expected]
    # Where tokens of a frame see each other, the beginning of a prompt is not held.
    assert (one_by_one[1].report.cached_tokens > 0) == (name != "gemma4_unified")


@each_family
def test_the_compressor_is_told_when_frames_are(folder_of: FolderOf, clips: list[Path], name: str) -> None:
    pipe = omnisift.load(folder_of(name), compressor="v_cast")
    streams: list[Any] = []
    assert pipe.compressor is not None
    handle = pipe.compressor.register_forward_pre_hook(lambda _module, args: streams.append(args[0]))
    pipe.ask(pipe.read(clips[0], fps=1.0), QUESTIONS[0], max_new_tokens=1)
    handle.remove()
    times = torch.unique(streams[0].time[streams[0].modality == int(omnisift.Modality.VIDEO)])
    assert torch.allclose(times, torch.arange(len(times)) * (2.0 if name.startswith("glm") else 1.0))


@each_hearing
def test_a_long_audio_track_has_several_items(folder_of: FolderOf, clips: list[Path], name: str) -> None:
    """Of thirty seconds each; all belong to the one video, one after the other."""
    pipe = omnisift.load(folder_of(name), compressor="resift")
    media = pipe.read(clips[0])
    wave = np.random.default_rng(0).normal(size=16000 * 65).astype(np.float32) / 9
    media = replace(media, waveform=wave, seconds=65.0)
    inputs = build_inputs(pipe.host.processor, media, QUESTIONS[0])
    assert len(inputs["input_features"]) == 3
    streams: list[Any] = []
    assert pipe.compressor is not None
    handle = pipe.compressor.register_forward_pre_hook(lambda _module, args: streams.append(args[0]))
    tokens = pipe.ask(media, QUESTIONS[0], max_new_tokens=1).report.tokens
    handle.remove()
    assert tokens.audio == pytest.approx(65 * 25, abs=3)
    assert tokens.audio_kept < 0.5 * tokens.audio
    heard = streams[0].time[streams[0].modality == int(omnisift.Modality.AUDIO)]
    assert float(heard.max()) == pytest.approx(65, abs=0.2)
    assert bool((heard.diff() > 0).all())


@each_hearing
@pytest.mark.parametrize(("samples", "tokens"), [(100, 1), (640, 1), (16000 * 30 + 100, 750), (16000 * 30 + 640, 751)])
def test_lengths_of_audio_at_the_border_of_an_item(
    folder_of: FolderOf, clips: list[Path], name: str, samples: int, tokens: int
) -> None:
    pipe = omnisift.load(folder_of(name), compressor="v_cast")
    media = replace(pipe.read(clips[0]), waveform=np.full(samples, 0.1, np.float32))
    assert pipe.ask(media, QUESTIONS[0], max_new_tokens=1).report.tokens.audio == tokens


@each_hearing
def test_audio_alone_is_kept_or_compressed(folder_of: FolderOf, clips: list[Path], name: str) -> None:
    pipe = omnisift.load(folder_of(name), compressor="resift")
    media = replace(pipe.read(clips[0]), images=None, times=None, indices=None, fps=None)
    assert pipe.ask(media, QUESTIONS[1], max_new_tokens=1).report.tokens.audio_kept > 100
    smaller = pipe.with_compressor("resift", compress_audio=True)
    tokens = smaller.ask(media, QUESTIONS[1], max_new_tokens=1).report.tokens
    assert tokens.audio_kept == pytest.approx(tokens.audio / 4, abs=2)


def test_models_without_audio_refuse_audio_alone(folder_of: FolderOf, clips: list[Path]) -> None:
    pipe = omnisift.load(folder_of("llava_onevision"), compressor=None)
    silent = replace(pipe.read(clips[0]), images=None, times=None, indices=None, fps=None)
    media = replace(silent, waveform=np.zeros(16000, np.float32))
    with pytest.raises(NoVideo, match="audio alone"):
        pipe.ask(media, QUESTIONS[0])


@pytest.mark.parametrize("name", ["gemma4", "llava_onevision"])
def test_pixels_of_models_that_scale_images_themselves(folder_of: FolderOf, clips: list[Path], name: str) -> None:
    pipe = omnisift.load(folder_of(name), compressor=None)
    with pytest.raises(UsageError, match="scales images to"):
        pipe.ask(clips[0], QUESTIONS[0], max_pixels=10_000)


@each_family
def test_a_processor_of_another_model_is_refused(folder_of: FolderOf, tmp_path: Path, name: str) -> None:
    other = save_more(name, tmp_path / name)
    config = json.loads((other / "config.json").read_text())
    config["video_token_id"] = 0
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="video_token"):
        omnisift.load(other, compressor=None)


@each_family
def test_what_encoders_would_have_to_give_is_refused_by_name(folder_of: FolderOf, clips: list[Path], name: str) -> None:
    pipe = omnisift.load(folder_of(name), compressor="visionzip")
    with pytest.raises(omnisift.OmniSiftError, match=r"needs .*video_attention"):
        pipe.ask(clips[0], QUESTIONS[0])


@each_family
def test_a_folder_run_the_inspector_and_doctor(
    folder_of: FolderOf, clips: list[Path], tmp_path: Path, name: str
) -> None:
    model = ["--model", str(folder_of(name)), "--compressor", "v_cast"]
    out, page = tmp_path / "answers.jsonl", tmp_path / "page.html"
    commands = [
        ["run", str(clips[0].parent), "--task", "qa", "--question", QUESTIONS[0], "--out", str(out), *model,
         "--max-new-tokens", "4"],
        ["inspect", str(clips[0]), "--question", QUESTIONS[0], "--out", str(page), *model, "--max-new-tokens", "4"],
        ["doctor", "--model", str(folder_of(name))],
    ]  # fmt: skip
    for command in commands:
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(row["answer"] for row in rows)
    assert len(rows) == len(clips)


def test_a_model_without_an_audio_encoder_gets_no_audio(clips: list[Path], tmp_path: Path) -> None:
    """The larger models of Gemma 4, whose processor is that of the smaller ones."""
    folder = save_more("gemma4", tmp_path / "deaf", hears=False)
    answer = omnisift.load(folder, compressor="v_cast").ask(clips[0], QUESTIONS[0], max_new_tokens=1)
    assert answer.report.tokens.audio == 0
    assert any("audio is left out" in notice for notice in answer.report.notices)


def test_costs_and_training_of_other_families_are_refused(folder_of: FolderOf, clips: list[Path]) -> None:
    folder = str(folder_of("gemma4"))
    for command in (
        ["profile", "--config", folder, "--clip-seconds", "60"],
        ["advise", str(clips[0]), "--tokens", "100", "--model", folder],
        ["distill", "--media", str(clips[0].parent), "--model", folder, "--out", str(clips[0].parent / "never")],
    ):
        result = CliRunner().invoke(app, command)
        assert isinstance(result.exception, omnisift.OmniSiftError), command
        assert "knows the Qwen families" in str(result.exception)


@pytest.mark.parametrize(
    ("name", "file", "part", "key", "value", "message"),
    [
        (
            "glm46v",
            "processor_config.json",
            "video_processor",
            "size",
            {"shortest_edge": 1, "longest_edge": 1},
            "size of the video processor is smaller",
        ),
        ("gemma4", "processor_config.json", "feature_extractor", "feature_size", 40, "feature_size is 40"),
        ("gemma4", "processor_config.json", "feature_extractor", "sampling_rate", 8000, "sampling_rate must be 16000"),
        ("gemma4_unified", "config.json", None, "vision_config", None, "vision_config is missing"),
        ("glm46v", "config.json", "text_config", "rope_parameters", None, "mrope_section is missing"),
        (
            "llava_onevision",
            "config.json",
            None,
            "vision_feature_select_strategy",
            "default",
            "select_strategy is 'full'",
        ),
    ],
)
def test_files_with_which_a_clip_would_fail_or_be_misread_are_refused(
    folder_of: FolderOf, tmp_path: Path, name: str, file: str, part: str | None, key: str, value: Any, message: str
) -> None:
    folder = shutil.copytree(folder_of(name), tmp_path / name)
    fields = json.loads((folder / file).read_text())
    (fields if part is None else fields[part])[key] = value
    (folder / file).write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match=message):
        omnisift.load(folder, compressor=None)


@each_hearing
def test_the_reason_why_a_part_is_not_encoded_is_the_processor(folder_of: FolderOf, name: str) -> None:
    with pytest.raises(UsageError, match=r"can't be used here: Gemma4\w*Processor is not one of"):
        omnisift.load(folder_of(name), compressor="resift", retain_encoded=0.5)


@pytest.mark.parametrize("name", ["gemma4", pytest.param("glm46v", marks=pytest.mark.slow)])
def test_evidence_is_marked_where_tokens_have_the_pixels_of_the_labels(
    folder_of: FolderOf, clips: list[Path], name: str
) -> None:
    """GLM has the tokens of nano; Gemma has four times as many, and twice as many frames."""
    scene = make_scene(3, split="test")
    question = make_question(scene, "color_of_shape", np.random.default_rng(0)).text
    pipe = omnisift.load(folder_of(name), compressor="v_cast")
    assert pipe.compressor is not None
    trace = inspect_clip(pipe.host, {"v_cast": pipe.compressor}, clips[0], question, max_new_tokens=1).trace
    assert (trace.evidence is None) == (name == "gemma4")
    assert any("does not match it" in notice for notice in trace.notices) == (name == "gemma4")


def test_families_whose_processor_is_unknown_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "glm46v"}')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("omnisift.models.glm4v.Glm46vAdapter.is_loaded", False)
        with pytest.raises(UnsupportedModel, match="not known here: load the model with Transformers"):
            omnisift.load(tmp_path)
