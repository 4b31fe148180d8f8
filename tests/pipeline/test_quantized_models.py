"""What `load(quantization=)` promises, for each of its names: nano with a quantised language model is nano with a
compressor, as in float32. Needs the packages of the extra `quant`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers.streams import feed, peak_of
from tests.helpers.windows import watched, windows_of
from tests.models.test_attach import same, state
from torch import nn

import omnisift
from omnisift import KeepAll, Pipeline, attach, inspect_clip
from omnisift.models import adapter_for
from omnisift.pipeline.quantization import WAYS
from omnisift.profiling.measure import measure
from omnisift.world import make_scene, questions, write_clip

pytestmark = [pytest.mark.slow, pytest.mark.quant]

CLIPS = 12
SAME = dict.fromkeys(WAYS, 11) | {"quanto-int2": 10}
"""Answers of 12 that must be those of float32."""
METHODS = {"resift": 11, "omnisift": 10}
"""Method -> answers of 12 that are right in float32, with a quarter of the tokens."""


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, str, str]]:
    """Clips, each with a question and its answer."""
    folder, rows = tmp_path_factory.mktemp("clips"), []
    for seed in range(CLIPS):
        scene = make_scene(seed, split="test")
        write_clip(scene, folder / f"{seed}.mp4")
        (one,) = questions(scene, np.random.default_rng(seed), n=1)
        rows.append((folder / f"{seed}.mp4", one.text, one.answer))
    return rows


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def pipe(way: str) -> Pipeline:
    return omnisift.load("nano", quantization=way)


@pytest.fixture(scope="module")
def plain() -> Pipeline:
    return omnisift.load("nano")


def read_by_model(pipe: Pipeline, media: Any, question: str) -> tuple[dict[str, list[Any]], str]:
    """What the language model reads of a prompt, with the logits, and the answer."""
    with watched(pipe) as seen:
        text = pipe.ask(media, question).text
    return seen, text


def same_tokens(first: dict[str, list[Any]], second: dict[str, list[Any]]) -> bool:
    """Whether both prompts keep the same tokens, with the same embeddings at the same positions."""
    return all(torch.equal(first[name][0], second[name][0]) for name in ("positions", "embeds"))


def test_only_the_linear_layers_of_the_language_model_are_quantised(pipe: Pipeline, plain: Pipeline) -> None:
    thinker = pipe.host.thinker
    inside = {id(module) for module in adapter_for(thinker).parts.language_model.modules()}
    stored = plain.host.thinker.state_dict()
    counts = [0, 0]
    for name, module in thinker.named_modules():
        for kind, tensor in module.named_parameters(recurse=False):
            is_packed = id(module) in inside and kind == "weight" and name.endswith("_proj")
            counts[is_packed] += 1
            if is_packed:
                assert tensor.nelement() == 0 or type(tensor) is not nn.Parameter, name
            else:
                assert torch.equal(tensor, stored[f"{name}.{kind}"]), name
    assert counts[1] == 28
    assert thinker.lm_head.weight is thinker.get_input_embeddings().weight
    assert pipe.host.dtype == torch.float32


def test_detaching_leaves_the_model_as_it_was(pipe: Pipeline, asked: list[tuple[Path, str, str]]) -> None:
    thinker, (path, question, _) = pipe.host.thinker, asked[0]
    inputs = omnisift.inputs(pipe.host.processor, path, question)
    with torch.no_grad():
        full = thinker(**inputs).logits
        before = state(thinker)
        with attach(thinker, pipe.compressor):
            assert thinker(**inputs).logits.shape[1] < full.shape[1]
        assert same(before, state(thinker))
        assert torch.equal(thinker(**inputs).logits, full)


@pytest.fixture(scope="module")
def expected(plain: Pipeline, asked: list[tuple[Path, str, str]]) -> dict[str, list[tuple[dict[str, list[Any]], str]]]:
    """By method, what the language model reads of each clip where it is not quantised, and its answer."""
    pipes = {method: plain.with_compressor(method) for method in METHODS}
    found = {name: [read_by_model(one, *row[:2]) for row in asked] for name, one in pipes.items()}
    for name, least in METHODS.items():
        assert sum(text == row[2] for (_, text), row in zip(found[name], asked, strict=True)) >= least
    return found


def test_the_same_tokens_are_kept_and_answers_stay(
    way: str, pipe: Pipeline, asked: list[tuple[Path, str, str]], expected: dict[str, Any]
) -> None:
    for method in METHODS:
        one, equal = pipe.with_compressor(method), 0
        for (path, question, _), (unquantised, answer) in zip(asked, expected[method], strict=True):
            seen, text = read_by_model(one, path, question)
            assert same_tokens(seen, unquantised)
            equal += text == answer
        assert equal >= SAME[way]


def test_in_bfloat16_as_well(way: str, asked: list[tuple[Path, str, str]]) -> None:
    pipes = [omnisift.load("nano", compressor="omnisift", dtype="bfloat16", quantization=name) for name in (way, None)]
    selector: Any = pipes[0].compressor
    assert next(selector.parameters()).dtype == pipes[0].host.dtype == torch.bfloat16
    for path, question, _ in asked[:2]:
        first, second = (read_by_model(one, path, question) for one in pipes)
        assert same_tokens(first[0], second[0])
        assert first[1]


def test_a_batch_equals_single_calls(pipe: Pipeline, asked: list[tuple[Path, str, str]]) -> None:
    prompts = [(pipe.read(path), question) for path, question, _ in asked[:4]]
    batch, single = pipe.ask_batch(prompts), [pipe.ask(*prompt) for prompt in prompts]
    assert [(one.text, one.report.tokens) for one in batch] == [(one.text, one.report.tokens) for one in single]


def test_held_prompts_answer_as_whole_ones_do(pipe: Pipeline, asked: list[tuple[Path, str, str]]) -> None:
    path, question, _ = asked[0]
    encoded = pipe.encode(path)
    texts = [pipe.ask(encoded, text).text for text in (question, "Which sound?", question)]
    assert texts == [pipe.ask(path, text).text for text in (question, "Which sound?", question)]
    assert pipe.ask(encoded, question).report.cached_tokens > 0


def test_windows_keep_the_same_tokens(
    pipe: Pipeline, plain: Pipeline, asked: list[tuple[Path, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, question, _ = asked[0]
    with windows_of(2, monkeypatch, long_images=1):
        (parts, text), (unquantised, answer) = (read_by_model(one, path, question) for one in (pipe, plain))
    assert len(parts["patches"]) > 1
    assert same_tokens(parts, unquantised)
    assert text == answer


def test_a_stream_is_the_prompt_of_a_file(pipe: Pipeline, asked: list[tuple[Path, str, str]]) -> None:
    path, question, _ = asked[0]
    media = pipe.read(path)
    stream = feed(pipe.stream(keep=KeepAll(), peak=peak_of(pipe, media)), media)
    streamed = [stream.ask(text).text for text in (question, "Which sound?")]
    offline = Pipeline(pipe.host, stream.compressor)
    assert streamed == [offline.ask(media, text).text for text in (question, "Which sound?")]


def test_inspect_and_profile_take_it(pipe: Pipeline, plain: Pipeline, asked: list[tuple[Path, str, str]]) -> None:
    path, question, _ = asked[0]
    inspection = inspect_clip(pipe.host, {"resift": pipe.compressor}, path, question)
    assert inspection.trace is not None
    costs, expected = (measure({"25 %": one}, path, question, repeats=1).costs[0] for one in (pipe, plain))
    assert costs.flops == expected.flops


def test_a_maximum_length_is_kept(way: str, asked: list[tuple[Path, str, str]]) -> None:
    short = omnisift.load("nano", quantization=way, max_length=20)
    with pytest.raises(omnisift.MediaError, match="20"):
        short.ask(*asked[0][:2])


def test_the_stored_dtype_is_taken(way: str) -> None:
    assert omnisift.load("nano", quantization=way, dtype="auto").host.dtype == torch.float32
