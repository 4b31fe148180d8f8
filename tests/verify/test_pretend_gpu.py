"""All methods and the hooks on a device that is not the CPU: no operation mixes devices, and few wait for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.helpers.pretend_gpu import PretendGpu, PretendTensor, move_module, to_gpu
from torch import Tensor, nn

import omnisift
from omnisift.compressors import COMPRESSORS
from omnisift.models import adapter_for
from omnisift.tokens import TokenStream
from omnisift.verify.checks import DOCUMENTED_WAITS
from omnisift.verify.hosts import TINY
from omnisift.verify.subject import Subject, recorded_calls

NEVER_WAITS = {"omnisift", "random", "uniform", "salient", "attended", "dycoke", "omnifocus"}
"""Methods whose shapes are known from counts alone; the others merge, or choose one token after another."""


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject.make(TINY, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def stream(subject: Subject) -> TokenStream:
    return subject.stream()


@pytest.fixture
def gpu() -> Iterator[PretendGpu]:
    with torch.no_grad(), PretendGpu() as gpu:
        yield gpu


def on_gpu(stream: TokenStream) -> TokenStream:
    extras = {name: to_gpu(value.clone()) for name, value in stream.extras.items()}
    return replace(stream, embeds=to_gpu(stream.embeds.clone()), extras=extras)


@pytest.mark.parametrize("name", list(COMPRESSORS))
def test_methods_decide_as_on_a_cpu(name: str, subject: Subject, stream: TokenStream, gpu: PretendGpu) -> None:
    expected = subject.compressor(name)(stream)
    compressor = subject.compressor(name)
    with move_module(compressor):
        selection = compressor(on_gpu(stream))
    assert isinstance(selection.keep, PretendTensor)
    assert torch.equal(selection.keep.values, expected.keep)
    assert (selection.embeds is None) == (expected.embeds is None)
    if name in NEVER_WAITS:
        assert not gpu.waits
    assert not any("to gpu" in wait for wait in gpu.waits), "an upload waits: pass non_blocking=True"
    assert sum(gpu.waits.values()) < 30, gpu.waits


def test_the_hooks_wait_as_documented(subject: Subject, gpu: PretendGpu) -> None:
    model: Any = subject.model
    language_model = adapter_for(model).parts.language_model
    with recorded_calls(language_model) as calls:
        model(**subject.inputs, use_cache=False)
    cut = ("pixel_values_videos", "input_features")
    inputs = {name: value for name, value in subject.inputs.items() if name not in cut}
    inputs = {name: to_gpu(value) if isinstance(value, Tensor) else value for name, value in inputs.items()}
    compressor = subject.compressor("omnisift")

    class Reached(Exception):
        """The language model would run now."""

    def stop(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        lengths.append(kwargs["inputs_embeds"].shape[1])
        raise Reached

    lengths: list[int] = []
    with omnisift.attach(model, compressor), move_module(model), move_module(compressor):
        handle = language_model.register_forward_pre_hook(stop, with_kwargs=True)
        with pytest.raises(Reached):
            model(**inputs, inputs_embeds=to_gpu(calls[0]["inputs_embeds"].clone()), use_cache=False)
        handle.remove()
    # The prompt was cut; ids, mask, grids and seconds are the transfers that come before the encoders.
    assert lengths[0] < calls[0]["inputs_embeds"].shape[1]
    ours = {wait: count for wait, count in gpu.waits.items() if "outside" not in wait}
    assert sum(ours.values()) == 4 + DOCUMENTED_WAITS, ours


def test_the_pretended_device_refuses_a_mix(gpu: PretendGpu) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        to_gpu(torch.ones(3)) + torch.ones(3)
    assert float(to_gpu(torch.ones(3)).sum()) == 3.0
    assert sum(gpu.waits.values()) == 1
