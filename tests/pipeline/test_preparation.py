"""Clips are prepared to the bit as the processor of Hugging Face prepares them, for every family."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tests.helpers.family_folders import FACTORS, save_family

from omnisift.media import Media
from omnisift.pipeline import load, preparation
from omnisift.pipeline import prompt as prompts
from omnisift.pipeline.encoded_clip import PromptRow, prepare_call
from omnisift.pipeline.loading import read_processor
from omnisift.pipeline.preparation import normalize_patches, own_length, preparation_notices
from omnisift.pipeline.prompt import build_compact_inputs, build_inputs
from omnisift.utils.assets import nano_path

NAMES = ["nano", *FACTORS]
BYTES = "pixel_values_videos"


@pytest.fixture(scope="module")
def processor_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    made: dict[str, Any] = {}

    def processor(name: str) -> Any:
        if name not in made:
            folder = nano_path() if name == "nano" else save_family(name, tmp_path_factory.mktemp(name))
            made[name] = read_processor(str(folder))
        return made[name]

    return processor


def clip_of(name: str, frames: int = 6, seconds: float = 3.0, *, video: bool = True, audio: bool = True) -> Media:
    random = np.random.default_rng(frames)
    side = FACTORS.get(name, 28)
    shape = (frames, 3 * side, 5 * side, 3)
    noise = 0.1 * random.standard_normal(int(16_000 * seconds)).astype(np.float32)
    return Media(
        path=Path("clip"), images=random.integers(0, 256, shape, np.uint8) if video else None,
        times=np.arange(frames) / 2, indices=np.arange(frames), fps=2.0, waveform=noise if audio else None,
        seconds=seconds, video_seconds=seconds, capped=False, bad_packets=0, warnings=(),
    )  # fmt: skip


def reference(processor: Any, media: Media, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the processor itself makes."""
    with monkeypatch.context() as patched:
        patched.setattr(prompts, "with_patch_layout", lambda given: given)
        patched.setattr(prompts, "own_length", lambda *_: {})
        return dict(build_inputs(processor, media, "What happens?"))


def check_equal(made: dict[str, Any], expected: dict[str, Any]) -> None:
    """All inputs are equal to the bit; spectrograms in the frames that their mask shows."""
    assert list(made) == list(expected)
    for name, value in expected.items():
        if name in ("input_features", "feature_attention_mask"):
            count = int(expected["feature_attention_mask"].sum())
            assert int(made["feature_attention_mask"].sum()) == count
            assert torch.equal(made[name][..., :count], value[..., :count]), name
        elif isinstance(value, torch.Tensor):
            assert made[name].dtype == value.dtype, name
            assert torch.equal(made[name], value), name
        else:
            assert made[name] == value, name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("frames", [1, 2, 59, 60])
def test_frames_of_all_families(
    processor_of: Callable[[str], Any], name: str, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor, media = processor_of(name), clip_of(name, frames, audio=False)
    state = dict(vars(processor))
    compact = build_compact_inputs(processor, media, "What happens?")
    assert compact[BYTES].dtype == torch.uint8
    expected = reference(processor, media, monkeypatch)
    check_equal(dict(build_inputs(processor, media, "What happens?")), expected)
    half = normalize_patches(processor, compact, torch.bfloat16)[BYTES]
    assert torch.equal(half, expected[BYTES].bfloat16())
    assert vars(processor) == state
    assert preparation_notices(processor, media) == ()


@pytest.mark.parametrize("name", [name for name in NAMES if name == "nano" or "omni" in name])
@pytest.mark.parametrize("video", [True, False])
def test_clips_with_audio(
    processor_of: Callable[[str], Any], name: str, video: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor, media = processor_of(name), clip_of(name, video=video)
    check_equal(dict(build_inputs(processor, media, "What happens?")), reference(processor, media, monkeypatch))


@pytest.mark.parametrize(
    ("longest", "lengths"),
    [
        (2, [1, 159, 160, 161, 200, 401, 16_000, 19_999, *(32_000 + more for more in (-481, -480, -1, 0, 1))]),
        (30, [96_000]),
        (300, [95_987]),
    ],
)
def test_spectrograms_of_any_length(longest: int, lengths: list[int]) -> None:
    """Of noise, of silence, of a click at the end, and of a clip whose loudest frame is its last."""
    processor = copy.copy(read_processor(str(nano_path())))
    processor.feature_extractor = transformers.WhisperFeatureExtractor(feature_size=128, chunk_length=longest)
    options = {"sampling_rate": 16_000, "truncation": False, "return_attention_mask": True, "return_tensors": "pt"}
    for length in lengths:
        noise = np.random.default_rng(length).standard_normal(length).astype(np.float32)
        click = np.where(np.arange(length) < length - 20, 0, 1).astype(np.float32)
        rising = noise * np.linspace(0, 1, length, dtype=np.float32)
        for wave in (0.1 * noise, 0 * noise, click, rising) if longest == 2 else (rising,):
            extract = processor.feature_extractor
            ours, theirs = extract([wave], **own_length(processor, length), **options), extract([wave], **options)
            count = int(theirs["attention_mask"].sum())
            assert int(ours["attention_mask"].sum()) == count
            assert torch.equal(ours["input_features"][..., :count], theirs["input_features"][..., :count])
            assert ours["input_features"].shape[-1] <= max(count + 3, 100) or length > 31_000


class OwnVideo(transformers.Qwen2VLVideoProcessor):
    """A class that only a checkpoint's author knows."""


class OwnExtractor(transformers.WhisperFeatureExtractor):
    """Likewise."""


def changed(processor: Any, **settings: Any) -> Any:
    """A copy whose video processor or extractor has other settings or another class."""
    made = copy.copy(processor)
    for part in ("video_processor", "feature_extractor"):
        setattr(made, part, copy.copy(getattr(processor, part)))
        for name, value in settings.items():
            if name == part:
                setattr(made, part, value)
            elif hasattr(getattr(made, part), name):
                setattr(getattr(made, part), name, value)
    return made


@pytest.mark.parametrize(
    ("settings", "reasons"),
    [
        ({"video_processor": OwnVideo()}, ["OwnVideo is not one of Qwen2VLVideoProcessor, Qwen3VLVideoProcessor"]),
        ({"do_normalize": False}, ["do_normalize is False"]),
        ({"do_rescale": False}, ["do_rescale is False"]),
        ({"image_mean": [0.5]}, ["image_mean is [0.5]"]),
        ({"feature_extractor": OwnExtractor(feature_size=80)}, ["OwnExtractor is not WhisperFeatureExtractor"]),
        ({"padding_value": 0.5, "do_normalize": False}, ["do_normalize is False", "padding_value is 0.5"]),
        ({"image_std": [0.5, 0.25, 0.2], "rescale_factor": 1 / 128}, []),
        ({"patch_size": 7, "temporal_patch_size": 3}, []),
    ],
)
def test_other_settings_are_done_by_the_processor_and_said(
    processor_of: Callable[[str], Any],
    settings: dict[str, Any],
    reasons: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    processor, media = changed(processor_of("nano"), **settings), clip_of("nano", 7)
    preparation._log_once.cache_clear()
    with caplog.at_level(logging.WARNING, "omnisift"):
        notices = [preparation_notices(processor, media) for _ in range(2)][1]
    assert [notice.split(": ", 1)[1] for notice in notices] == reasons
    assert [record.getMessage() for record in caplog.records if record.name.startswith("omnisift")] == list(notices)
    check_equal(dict(build_inputs(processor, media, "What happens?")), reference(processor, media, monkeypatch))


def test_a_size_that_the_tokenizer_sets_is_left_to_the_processor(processor_of: Callable[[str], Any]) -> None:
    processor = copy.copy(processor_of("nano"))
    processor.tokenizer = copy.deepcopy(processor.tokenizer)
    processor.tokenizer.init_kwargs["patch_size"] = 7
    assert preparation.unknown_video(processor) == "the tokenizer sets patch_size"
    assert preparation.with_patch_layout(processor) is processor


def test_the_model_reads_floats_and_the_report_says_what_transformers_prepared(clip: Path) -> None:
    pipe = load("nano", compressor=None)
    media = pipe.read(clip)
    row = PromptRow(media, build_compact_inputs(pipe.host.processor, media, "What happens?"))
    with prepare_call(pipe.host, [row, row], None) as inputs:
        assert inputs[BYTES].dtype == torch.float32
        assert len(inputs[BYTES]) == 2 * len(row.inputs[BYTES])
    assert not any("Transformers" in notice for notice in pipe.ask(media, "What happens?").report.notices)
    # Pixels of another scale would change the answer, so the same class under another name stands for a foreign one.
    pipe.host.processor.video_processor.__class__ = OwnVideo
    notices = pipe.ask(media, "What happens?", max_new_tokens=1).report.notices
    assert [notice for notice in notices if notice.startswith("Transformers prepares the frames")]
