"""`omnisift.inputs` with a model and a processor that Transformers loaded, as the README shows it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, BatchFeature, Qwen2_5OmniThinkerForConditionalGeneration

import omnisift
from omnisift.errors import NotFound, UsageError

QUESTION = "What colour is the circle?"


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    """(model, processor), by Transformers' own classes."""
    folder = omnisift.nano_path()
    model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder).eval()
    return model, AutoProcessor.from_pretrained(folder)


@pytest.mark.parametrize("name", ["v_cast", "uniform", "random"])
def test_the_inputs_of_an_attached_model(loaded: tuple[Any, Any], clip: Path, name: str) -> None:
    model, processor = loaded
    inputs = omnisift.inputs(processor, clip, QUESTION)
    with omnisift.attach(model, name, retain=0.25) as attachment:
        output = model.generate(**inputs, max_new_tokens=256, do_sample=False)
    expected = omnisift.load("nano", compressor=name, retain=0.25).ask(clip, QUESTION)
    text = processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert text.strip() == expected.text
    tokens = expected.report.tokens
    assert (attachment.last.kept_video, attachment.last.kept_audio) == (tokens.video_kept, tokens.audio_kept)


def test_the_readme_block(loaded: tuple[Any, Any], clip: Path) -> None:
    model, processor = loaded
    inputs = omnisift.inputs(processor, str(clip), "Who speaks first?")
    with omnisift.attach(model, "v_cast", retain=0.25) as attachment:
        model.generate(**inputs)
    assert attachment.last.retained_ratio == pytest.approx(63 / 246)


def test_the_inputs_move_to_a_device_and_dtype(loaded: tuple[Any, Any], clip: Path) -> None:
    inputs = omnisift.inputs(loaded[1], clip, QUESTION)
    assert isinstance(inputs, BatchFeature)
    assert all(value.device.type == "cpu" for value in inputs.values() if isinstance(value, torch.Tensor))
    moved = inputs.to("cpu", torch.bfloat16)
    assert moved["pixel_values_videos"].dtype == torch.bfloat16
    assert moved["input_ids"].dtype == torch.int64


def test_file_objects_and_arrays(loaded: tuple[Any, Any], clip: Path) -> None:
    """Every function that takes a clip takes them."""
    processor, pipe = loaded[1], omnisift.load("nano", compressor="uniform")
    expected = pipe.ask(clip, QUESTION)
    file = io.BytesIO(clip.read_bytes())
    for answer in (
        pipe.ask(file, QUESTION),
        pipe.ask(pipe.encode(file), QUESTION),
        pipe.ask(pipe.read(file), QUESTION),
    ):
        assert (answer.text, answer.report.source.path) == (expected.text, "<BytesIO>")
    assert torch.equal(
        omnisift.inputs(processor, file, QUESTION)["input_ids"], omnisift.inputs(processor, clip, QUESTION)["input_ids"]
    )
    media = omnisift.Media.from_arrays(np.zeros((50, 56, 56, 3), np.uint8), 25, np.zeros(32_000), 16_000)
    assert pipe.read(media) is media
    answers = pipe.ask_batch([(media, QUESTION), (pipe.encode(media), QUESTION)])
    assert answers[0].text == answers[1].text
    assert answers[0].report.source.path == "<arrays>"
    trace = omnisift.inspect_clip(pipe.host, {"uniform": pipe.compressor}, media, QUESTION, max_new_tokens=2).trace
    assert trace.clip.path == "<arrays>"


@pytest.mark.parametrize("wrong", [None, 5, {}, ["a.mp4"], b"a.mp4", io.StringIO("x")], ids=lambda v: type(v).__name__)
def test_anything_else_is_one_typed_error(loaded: tuple[Any, Any], wrong: Any) -> None:
    pipe = omnisift.load("nano", compressor=None)
    for call in (
        lambda: omnisift.inputs(loaded[1], wrong, QUESTION),
        lambda: pipe.ask(wrong, QUESTION),
        lambda: pipe.ask_batch([(wrong, QUESTION)]),
        lambda: pipe.read(wrong),
        lambda: pipe.encode(wrong),
    ):
        with pytest.raises(UsageError, match=r"\A[^\n]+\Z"):
            call()


def test_a_decoded_clip_is_taken_as_it_is(loaded: tuple[Any, Any], clip: Path) -> None:
    processor = loaded[1]
    media = omnisift.load("nano", compressor=None).read(clip, fps=1.0)
    decoded = omnisift.inputs(processor, media, QUESTION)
    named = omnisift.inputs(processor, clip, QUESTION, fps=1.0)
    assert torch.equal(decoded["pixel_values_videos"], named["pixel_values_videos"])
    assert decoded["input_ids"].shape[1] < omnisift.inputs(processor, clip, QUESTION)["input_ids"].shape[1]
    few = omnisift.inputs(processor, clip, QUESTION, max_frames=4, sampling="qwen", system="Look.")
    assert int(torch.as_tensor(few["video_grid_thw"])[0, 0]) == 2


def test_errors(loaded: tuple[Any, Any], clip: Path) -> None:
    with pytest.raises(NotFound):
        omnisift.inputs(loaded[1], "missing.mp4", QUESTION)
    with pytest.raises(UsageError, match="stands for a clip"):
        omnisift.inputs(loaded[1], clip, "What is <|VIDEO|>?")


@pytest.mark.parametrize("question", ["", " ", "What\udcff?", None])
def test_a_question_that_is_no_text_is_refused(loaded: tuple[Any, Any], clip: Path, question: Any) -> None:
    with pytest.raises(UsageError, match="the question"):
        omnisift.inputs(loaded[1], clip, question)


def test_something_else_than_a_processor_is_refused(loaded: tuple[Any, Any], clip: Path) -> None:
    for processor in (None, "Qwen/Qwen2.5-Omni-7B", loaded[1].tokenizer):
        with pytest.raises(UsageError, match="takes the processor of a supported model"):
            omnisift.inputs(processor, clip, QUESTION)
