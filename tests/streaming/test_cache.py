"""The cache of a stream: moved keys are those of other positions, on any device, and errors don't add up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.helpers.pretend_gpu import PretendGpu, PretendTensor, move_module, to_gpu
from tests.helpers.streams import feed, noise, random_pipeline

import omnisift
from omnisift import KeepAll, Pipeline, SlidingWindow
from omnisift.models.cached_prompt import cache_argument
from omnisift.streaming.cache import StreamCache


def test_moved_keys_are_those_of_the_other_positions() -> None:
    """In the first layer, whose keys depend on nothing else; there and back again in all layers; values never.

    Angles are computed in float32, here and in the model.
    """
    pipe = random_pipeline(torch.float64)
    media = noise(8, 4.0)
    moved, direct = (feed(pipe.stream(keep=KeepAll()), media) for _ in range(2))
    cache, base = (stream._state.cache for stream in (moved, direct))  # type: ignore[union-attr]
    held = moved._state.held  # type: ignore[union-attr]
    moving = moved._state.layout.moving(held.modality)  # type: ignore[union-attr]
    cache.move(-37 * moving)
    first = read_at(pipe, direct, -37)
    fixed = cache._fixed
    keys, values = cache.tensors()[:2]
    assert torch.allclose(keys[:, :, fixed:], first[:, :, fixed:], rtol=0, atol=1e-4)
    assert not torch.allclose(keys[:, :, fixed:], base.tensors()[0][:, :, fixed:], rtol=0, atol=1e-2)
    assert torch.equal(values, base.tensors()[1])
    cache.move(0 * moving)
    for one, other in zip(cache.tensors(), base.tensors(), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-4)


def read_at(pipe: Pipeline, stream: omnisift.StreamSession, shift: int) -> torch.Tensor:
    """Keys of the first layer if the tokens of a stream were read at other positions along time."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    lm: Any = omnisift.adapter_for(pipe.host.thinker).parts.language_model
    hook = lm.register_forward_hook(
        lambda _m, _a, given, _out: seen.append((given["inputs_embeds"], given["position_ids"])), with_kwargs=True
    )
    feed(pipe.stream(keep=KeepAll()), noise(8, 4.0))
    hook.remove()
    embeds, positions = (torch.cat([part[k] for part in seen], dim=1 + k) for k in (0, 1))
    state = stream._state
    assert state is not None
    fixed = state.cache._fixed
    positions = positions.clone()
    positions[1:, 0, fixed:] += shift * state.layout.moving(state.held.modality)
    from transformers import DynamicCache

    cache = DynamicCache(config=lm.config)
    with torch.inference_mode():
        lm(inputs_embeds=embeds, position_ids=positions, use_cache=True, **cache_argument(lm, cache))
    keys: torch.Tensor = cache.layers[0].keys
    return keys


def test_in_16_bits_many_moves_add_no_errors() -> None:
    """A thousand moves are one move: keys are kept as they were read."""
    pipe = random_pipeline(torch.bfloat16)
    media = noise(8, 4.0)
    stream, once = (feed(pipe.stream(keep=SlidingWindow(60)), media) for _ in range(2))
    state = stream._state
    assert state is not None
    moving = state.layout.moving(state.held.modality)
    for shift in [*range(1, 500), 77]:
        state.cache.move(-shift * moving)
    assert once._state is not None
    once._state.cache.move(-77 * moving)
    for one, other in zip(state.cache.tensors(), once._state.cache.tensors(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cache_on_a_gpu_moves_as_on_a_cpu(dtype: torch.dtype) -> None:
    """No operation mixes devices, and none waits for the device."""
    pipe, media = random_pipeline(dtype), noise(8, 4.0)
    there, here = (feed(pipe.stream(keep=SlidingWindow(60)), media)._state for _ in range(2))
    assert there is not None
    assert here is not None
    moving, rest = there.layout.moving(there.held.modality), torch.arange(0, len(there.held), 2)
    lm = omnisift.adapter_for(pipe.host.thinker).parts.language_model
    with torch.no_grad(), PretendGpu() as gpu, move_module(lm):
        for layer in there.cache._cache.layers:
            layer.keys, layer.values = to_gpu(layer.keys.clone()), to_gpu(layer.values.clone())
        if there.cache._read is not None:
            there.cache._read = [to_gpu(keys.clone()) for keys in there.cache._read]
        move_and_select(there.cache, moving, rest)
        assert not gpu.waits
    move_and_select(here.cache, moving, rest)
    for one, other in zip(there.cache.tensors(), here.cache.tensors(), strict=True):
        assert isinstance(one, PretendTensor)
        assert torch.equal(one.values, other)


def move_and_select(cache: StreamCache, moving: torch.Tensor, rest: torch.Tensor) -> None:
    cache.move(-37 * moving)
    cache.select(rest)
    cache.move(-40 * moving[:, rest])
