"""Spectrograms in pieces, prompts of sizes alone and rotary positions are those of Transformers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.family_folders import FACTORS
from tests.helpers.windows import QUESTION, clip_of, watched
from torch import Tensor
from transformers import WhisperFeatureExtractor

from omnisift import Pipeline
from omnisift.models import adapter_for
from omnisift.pipeline.loading import read_processor
from omnisift.pipeline.preparation import own_length, padded_length
from omnisift.pipeline.prompt import heard_by, prompt_text, run_processor
from omnisift.pipeline.spectrogram import LogMel, limited
from omnisift.utils.assets import nano_path


@settings(max_examples=30, deadline=None)
@given(samples=st.integers(300, 60_000), longest=st.integers(1, 3), pieces=st.lists(st.integers(1, 30_000), min_size=1))
def test_spectrograms_in_pieces_are_those_of_the_feature_extractor(
    samples: int, longest: int, pieces: list[int]
) -> None:
    """With the padding of Qwen2.5-Omni, before and after the longest clip, and with that of Qwen3-Omni."""
    processor = read_processor(str(nano_path()))
    processor.feature_extractor = extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=longest)
    wave = np.random.default_rng(samples).standard_normal(samples).astype(np.float32) * np.linspace(1e-3, 1, samples)
    wave = wave.astype(np.float32)
    own = own_length(processor, samples)
    for options, padded in (
        ({"padding": "max_length", **own}, padded_length(processor, samples)),
        ({"padding": True}, samples),
    ):
        expected = extractor(
            [wave], sampling_rate=16_000, truncation=False, return_attention_mask=True, return_tensors="pt", **options
        )
        frames = int(expected["attention_mask"].sum())
        mel, parts, begin = LogMel(extractor), list[Tensor](), 0
        while begin < samples:
            piece = pieces[len(parts) % len(pieces)]
            parts.append(mel.add(wave[begin : begin + piece]))
            begin += piece
        made = torch.cat([*parts, mel.finish(padded)], dim=1)
        assert mel.samples == samples
        torch.testing.assert_close(
            limited(made, mel.peak)[:, :frames], expected["input_features"][0, :, :frames], rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("seconds", [0.0, 4.303])
@pytest.mark.parametrize("name", ["nano", *FACTORS])
def test_a_prompt_of_sizes_alone_has_the_tokens_of_the_processor(
    pipe_of: Callable[[str], Pipeline], name: str, seconds: float
) -> None:
    processor = pipe_of(name).host.processor
    clip = heard_by(processor, clip_of(name, 14, seconds, 1.7))
    text = prompt_text(processor, clip, QUESTION, "Be brief.")
    expected = run_processor(processor, text, clip)
    made = run_processor(processor, text, clip, sizes_alone=True)
    for key in ("input_ids", "attention_mask", "video_grid_thw", "mm_token_type_ids", "video_second_per_grid"):
        assert (key in made) == (key in expected)
        if key in expected:
            assert torch.equal(torch.as_tensor(made[key]), torch.as_tensor(expected[key])), key
    masks = [inputs.get("feature_attention_mask", torch.zeros(1)) for inputs in (made, expected)]
    assert int(masks[0].sum()) == int(masks[1].sum())
    assert made["pixel_values_videos"].numel() == 0


@pytest.mark.parametrize("name", ["nano", *FACTORS])
def test_positions_are_those_that_the_host_counts(pipe_of: Callable[[str], Pipeline], name: str) -> None:
    pipe = pipe_of(name)
    clip = heard_by(pipe.host.processor, clip_of(name, 14, 4.3, 1.7))
    inputs = run_processor(pipe.host.processor, prompt_text(pipe.host.processor, clip, QUESTION), clip)
    with watched(pipe) as seen:
        pipe.ask(clip, QUESTION, max_new_tokens=1)
    made = adapter_for(pipe.host.thinker).rotary_positions(inputs)
    assert torch.equal(made.cpu(), seen["positions"][0][-3:].cpu())
