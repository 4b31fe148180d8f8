"""A prompt beyond the model's context is refused with numbers, counted after compression; unless asked otherwise."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from omnisift import Pipeline, load
from omnisift.batch import ModelSettings
from omnisift.compressors import COMPRESSORS
from omnisift.errors import TooBig, UsageError
from omnisift.media import Media
from omnisift.models import attach
from omnisift.pipeline.context import _kept_tokens, context_length
from omnisift.pipeline.encoded_clip import PromptRow
from omnisift.pipeline.loading import load_host
from omnisift.pipeline.prompt import build_inputs

METHODS = list(COMPRESSORS)


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return load("nano", compressor="uniform", device="cpu")


def with_context(pipe: Pipeline, tokens: int | None) -> Pipeline:
    return Pipeline(replace(pipe.host, max_length=tokens), pipe.compressor)


def config(positions: int | None, **rope: Any) -> Any:
    text = SimpleNamespace(max_position_embeddings=positions, **rope)
    return SimpleNamespace(get_text_config=lambda: text)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        (config(4096), 4096),
        (config(None), None),
        (config(32768, rope_parameters={"rope_type": "default", "rope_theta": 1e6}), 32768),
        (config(32768, rope_parameters={"rope_type": "yarn", "factor": 4.0}), 131072),
        (config(32768, rope_scaling={"type": "yarn", "factor": 4, "original_max_position_embeddings": 32768}), 131072),
        (
            config(131072, rope_scaling={"type": "yarn", "factor": 4, "original_max_position_embeddings": 32768}),
            131072,
        ),
        (config(2048, rope_parameters={"rope_type": "linear", "factor": 2.0}), 4096),
        (config(2048, rope_parameters={"rope_type": "dynamic", "factor": None}), 2048),
        (config(131072, rope_parameters={"rope_type": "llama3", "factor": 8.0}), 131072),
        (config(8192, rope_parameters={"full_attention": {"rope_type": "linear", "factor": 2.0}}), 16384),
        (config(8192, rope_parameters=None, rope_scaling=None), 8192),
    ],
)
def test_the_context_that_a_configuration_states(stated: Any, expected: int | None) -> None:
    assert context_length(stated) == expected


def test_the_context_of_nano(pipe: Pipeline) -> None:
    assert context_length(pipe.host.thinker.config) == 4096


def test_the_edge(pipe: Pipeline, clip: Path) -> None:
    """The tokens counted are those that are kept, and the answer needs room."""
    kept = pipe.ask(clip, "What?", max_new_tokens=4).report.tokens.prompt_kept
    assert with_context(pipe, kept + 4).ask(clip, "What?", max_new_tokens=4).text
    full = pipe.ask(clip, "What?", max_new_tokens=4).report.tokens.prompt
    numbers = (
        f"{kept} tokens after compression ({full} before) and up to 4 new ones follow, but the context is {kept + 3};"
    )
    with pytest.raises(TooBig, match=re.escape(numbers)) as caught:
        with_context(pipe, kept + 3).ask(clip, "What?", max_new_tokens=4)
    assert str(caught.value).startswith(f"{clip}: ")
    assert "\n" not in str(caught.value)
    with pytest.raises(TooBig, match=f"has {full} tokens and"):
        Pipeline(replace(pipe.host, max_length=full), None).ask(clip, "What?", max_new_tokens=4)


@pytest.mark.parametrize("name", METHODS)
def test_the_count_is_that_of_every_method(pipe: Pipeline, clip: Path, name: str) -> None:
    other = pipe.with_compressor(name, retain=0.4)
    assert other.compressor is not None
    with attach(pipe.host.thinker, other.compressor):
        pass
    inputs = build_inputs(pipe.host.processor, pipe.read(clip), "What?")
    kept = other.ask(clip, "What?", max_new_tokens=1).report.tokens.prompt_kept
    assert _kept_tokens(pipe.host, other.compressor, PromptRow(pipe.read(clip), inputs)) == kept


def silence(seconds: float) -> Media:
    none = np.zeros(0)
    return Media(
        path=Path("silence.wav"), images=None, times=none, indices=none.astype(int), fps=0.0,
        waveform=np.zeros(round(seconds * 16_000), np.float32), seconds=seconds, video_seconds=0.0, capped=False,
        bad_packets=0, warnings=(),
    )  # fmt: skip


def test_audio_alone_is_not_compressed(pipe: Pipeline) -> None:
    with pytest.raises(TooBig, match=r"silence\.wav: the prompt has 45\d\d tokens and .*the context is 4096"):
        pipe.ask(silence(180), "What?", max_new_tokens=4)
    assert with_context(pipe, 5000).ask(silence(180), "What?", max_new_tokens=4)


def test_batches_and_encoded_clips(pipe: Pipeline, clip: Path) -> None:
    small = with_context(pipe, 60)
    with pytest.raises(TooBig, match="the context is 60"):
        small.ask_batch([(clip, "What?"), (clip, "Who?")], max_new_tokens=4)
    encoded = small.encode(clip)
    with pytest.raises(TooBig, match="the context is 60"):
        small.ask(encoded, "What?", max_new_tokens=4)
    assert not encoded.is_encoded, "no encoder ran"


def test_the_option(clip: Path) -> None:
    with pytest.raises(TooBig, match="the context is 50"):
        load("nano", device="cpu", max_length=50).ask(clip, "What?")
    assert load_host("nano", device="cpu", max_length=50).max_length == 50
    for wrong in (0, -1):
        with pytest.raises(UsageError, match="max_length must be at least 1 token"):
            load("nano", device="cpu", max_length=wrong)
    assert "max_length" not in ModelSettings(max_length=5).to_dict(), "a run resumes with another limit"
    with pytest.raises(UsageError, match="--max-model-len"):
        ModelSettings(engine="vllm", max_length=5).check()
