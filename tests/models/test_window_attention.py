"""Windows of one size in one call: equal to one call for each window, for the vision encoder of every family."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.families import FAMILIES, Family
from tests.helpers.models import thinker
from torch import Tensor

from omnisift.models import adapter_for, window_attention
from omnisift.models.window_attention import batched_windows
from omnisift.pipeline import generation, load

GRIDS = [[2, 18, 14], [1, 4, 4], [3, 6, 10]]
"""Three videos, in patches. The windows of 4 x 4 tokens have up to six sizes, the frames three."""


def encode(model: Any, grids: list[list[int]] = GRIDS) -> Tensor:
    """The output of the vision encoder on noise."""
    encoder: Any = adapter_for(model).parts.vision_encoder
    config = model.config.vision_config
    count = sum(time * height * width for time, height, width in grids)
    pixels = torch.randn(count, 6 * config.patch_size**2, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return encoder(pixels, grid_thw=torch.tensor(grids)).pooler_output


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the queries of each call of the kernel."""
    shapes = list[tuple[int, ...]]()
    kernel = torch.nn.functional.scaled_dot_product_attention

    def counted(query: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        shapes.append(tuple(query.shape))
        return kernel(query, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    return shapes


def check_close(made: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("family", [*FAMILIES.values(), None], ids=str)
def test_every_family(family: Family | None, calls: list[tuple[int, ...]]) -> None:
    model = thinker() if family is None else family.model()
    expected, one_by_one = encode(model), len(calls)
    calls.clear()
    with batched_windows(model):
        check_close(encode(model), expected)
        assert adapter_for(model).parts.vision_encoder.config._attn_implementation == "sdpa"
    assert len(calls) < one_by_one
    config = model.config.vision_config
    sizes = {length for _, _, length, _ in calls}
    # As many calls as sizes in each layer: three of frames, and as many of windows as there are.
    full = set(getattr(config, "fullatt_block_indexes", range(config.depth)))
    windows = config.depth - len(full)
    assert len(calls) == 3 * len(full) + windows * (len(sizes - {252, 60}) if windows else 0)
    calls.clear()
    encode(model)
    assert len(calls) == one_by_one


def test_a_bound_on_the_weights_of_one_call(calls: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    model = FAMILIES["qwen2_5_vl"].model()
    expected = encode(model)
    calls.clear()
    with batched_windows(model):
        encode(model)
        few = len(calls)
        monkeypatch.setattr(window_attention, "MAX_WEIGHTS", 2 * 2 * 64**2)  # two heads, two windows
        check_close(encode(model), expected)
    assert len(calls) - few > few
    assert max(batch * heads * length**2 for batch, heads, length, _ in calls[few:] if batch > 1) <= 2 * 2 * 64**2


def test_one_size_needs_no_copies(calls: list[tuple[int, ...]]) -> None:
    model = FAMILIES["qwen2_5_vl"].model()
    expected = encode(model, [[3, 8, 8]])
    calls.clear()
    with batched_windows(model):
        check_close(encode(model, [[3, 8, 8]]), expected)
    assert {shape[0] for shape in calls} == {3}


@pytest.mark.parametrize("way", ["eager", "training", "another kernel"])
def test_other_encoders_are_left_alone(way: str) -> None:
    model = thinker(attention="eager" if way == "eager" else "sdpa")
    encoder: Any = adapter_for(model).parts.vision_encoder
    if way == "another kernel":
        encoder.config._attn_implementation = "flex_attention"
    encoder.train(way == "training")
    with batched_windows(model):
        assert not any(part._forward_pre_hooks or part._forward_hooks for part in encoder.modules())


def test_nothing_is_left_after_an_error() -> None:
    model = thinker()
    encoder: Any = adapter_for(model).parts.vision_encoder
    before = {name: dict(vars(module)) for name, module in encoder.named_modules()}

    with batched_windows(model), pytest.raises(RuntimeError):
        encoder(torch.zeros(3, 5), grid_thw=torch.tensor(GRIDS))
    assert encoder.config._attn_implementation == "sdpa"
    assert {name: dict(vars(module)) for name, module in encoder.named_modules()} == before
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in encoder.modules())


def test_methods_that_read_the_attention_of_the_encoder(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = load("nano", compressor="visionzip", retain=0.25)
    answers = [pipe.ask(clip, "What happens?")]
    monkeypatch.setattr(generation, "batched_windows", lambda _model: nullcontext())
    answers.append(pipe.ask(clip, "What happens?"))
    assert len({(answer.text, answer.report.tokens) for answer in answers}) == 1
