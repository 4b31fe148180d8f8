"""Prompts: sizes as in the host's processor, the true image rate, and audio that is never cut."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import AutoProcessor

from omnisift.media import Media
from omnisift.pipeline.clip_format import pixel_limits
from omnisift.pipeline.prompt import build_inputs
from omnisift.utils.assets import nano_path


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(nano_path())


def media(n_images: int, fps: float, seconds: float) -> Media:
    times = np.arange(n_images) / fps
    return Media(
        path=Path("made-up.mp4"),
        images=np.zeros((n_images, 112, 112, 3), np.uint8),
        times=times,
        indices=np.arange(n_images),
        fps=fps,
        waveform=np.zeros(int(16_000 * seconds), np.float32),
        seconds=seconds,
        video_seconds=n_images / fps,
        capped=False,
        bad_packets=0,
        warnings=(),
    )


def test_limits_are_the_tokenizers_or_the_hosts_default(processor) -> None:
    assert pixel_limits(processor) == (112 * 112, 224 * 224)
    full_size = SimpleNamespace(**{**vars(processor), "tokenizer": SimpleNamespace(init_kwargs={})})
    assert pixel_limits(full_size) == (128 * 28 * 28, 768 * 28 * 28)


def test_limits_are_those_of_the_processor(processor) -> None:
    tiny = [np.zeros((2, 3, 28, 28), np.uint8)]
    grid = processor(text="<|VIDEO|>", videos=tiny, return_tensors="pt")["video_grid_thw"][0]
    assert int(grid[1] * grid[2]) * 14 * 14 == pixel_limits(processor)[0]


def test_the_true_image_rate_reaches_the_model(processor) -> None:
    inputs = build_inputs(processor, media(12, 0.5, 24.0), "How many shapes are there?")
    assert float(inputs["video_second_per_grid"][0]) == 4.0


def test_audio_longer_than_the_feature_extractor_expects_is_not_cut(processor) -> None:
    inputs = build_inputs(processor, media(80, 2.0, 40.0), "How many shapes are there?")
    assert int((inputs["input_ids"] == processor.tokenizer.audio_token_id).sum()) == 40 * 25


def test_a_system_prompt_is_sent_only_when_given(processor) -> None:
    plain = build_inputs(processor, media(2, 2.0, 1.0), "Where?")["input_ids"].shape[1]
    assert build_inputs(processor, media(2, 2.0, 1.0), "Where?", system="Look.")["input_ids"].shape[1] > plain
