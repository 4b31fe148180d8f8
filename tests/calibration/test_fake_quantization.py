"""Fake quantisation: grids against plain loops, and weights that come back bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.models import Part, Video, language_model, prompt, row_of, thinker
from tests.models.hosts import half
from torch import Tensor

import omnisift
from omnisift.calibration.fake_quantization import rounded
from omnisift.calibration.scales import Calibration, Scales
from omnisift.errors import CheckpointError, UnsupportedModel, UsageError
from omnisift.tokens import Modality

MODEL = thinker()
ROWS: list[list[Part]] = [[5, Video(4, 2, 3, audio=90), 6], [9, Video(2, 2, 2, audio=30), 21]]
INPUTS = prompt(*ROWS)
RANGES = (4.0, 2.0, 1.0, 0.0)
"""Planted ranges of text, video and audio; no subtitle was calibrated."""
LAYER = "layers.0.self_attn.q_proj"


def planted(ranges: tuple[float, ...] = RANGES) -> Scales:
    """Scales with these ranges in every layer; the percentiles are half of them."""
    layers = {name: layer for name, layer in language_model(MODEL).named_modules() if hasattr(layer, "in_features")}
    rows = torch.tensor(ranges)
    largest = {name: rows[:, None].repeat(1, layer.in_features) for name, layer in layers.items()}
    tokens = (rows > 0).long()
    return Scales(largest, dict.fromkeys(layers, rows / 2), tokens, Calibration("tiny", "", "", (), 1, {}))


@torch.no_grad()
def logits(inputs: dict[str, Any] = INPUTS, **options: Any) -> Tensor:
    if not options:
        return MODEL(**inputs).logits
    with omnisift.fake_quantized(MODEL, **options):
        return MODEL(**inputs).logits


def weights() -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in MODEL.state_dict().items()}


def same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name].view(torch.int32), other[name].view(torch.int32)) for name in one)


def layer_of(model: Any) -> Any:
    return language_model(model).layers[0].self_attn.q_proj


def test_values_are_rounded_to_the_nearest_of_the_grid() -> None:
    values = torch.tensor([-9.0, -1.26, -0.24, 0.0, 0.26, 0.74, 1.6, 9.0])
    expected = [-1.5, -1.5, 0.0, 0.0, 0.5, 0.5, 1.5, 1.5]  # 3 bits: -3 to 3 steps of a half
    assert rounded(values, torch.tensor(0.5), 3).tolist() == expected
    assert rounded(values.bfloat16(), torch.tensor(0.5), 3).dtype == torch.bfloat16
    assert rounded(torch.zeros(3), torch.zeros(1), 8).tolist() == [0, 0, 0]


@pytest.mark.parametrize("granularity", ["token", "tensor", "modality"])
def test_sixteen_bits_are_close_and_two_bits_are_not(granularity: str) -> None:
    static = {} if granularity == "token" else {"scales": planted((30.0, 30.0, 30.0, 0.0))}
    options = {"granularity": granularity, **static}
    full = logits()
    assert (logits(weight_bits=16, activation_bits=16, **options) - full).abs().max() < 0.05
    assert (logits(activation_bits=2, **options) - full).abs().max() > 1
    assert (logits(weight_bits=2) - full).abs().max() > 1
    assert torch.equal(logits(), full)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_have_a_grid_for_each_output_channel(bits: int) -> None:
    weight, limit = layer_of(MODEL).weight.detach().clone(), 2 ** (bits - 1) - 1
    with omnisift.fake_quantized(MODEL, weight_bits=bits):
        on_grid = layer_of(MODEL).weight.detach().clone()
    for row, made in zip(weight, on_grid, strict=True):
        step = row.abs().max() / limit
        expected = [max(-limit, min(limit, round(float(value / step)))) * float(step) for value in row]
        torch.testing.assert_close(made, torch.tensor(expected))
        assert len(set(made.tolist())) <= 2**bits - 1


def test_weights_come_back_bit_for_bit() -> None:
    weight = layer_of(MODEL).weight
    with torch.no_grad():
        weight[0, 0] = -0.0
    before, head = weights(), MODEL.lm_head.weight.clone()
    with omnisift.fake_quantized(MODEL, weight_bits=3, activation_bits=3):
        changed = {name for name, tensor in MODEL.state_dict().items() if not torch.equal(tensor, before[name])}
        assert torch.equal(MODEL.lm_head.weight, head)
    prefix = next(name for name, module in MODEL.named_modules() if module is language_model(MODEL))
    assert len(changed) == 14
    assert all(name.startswith(prefix) and name.endswith("_proj.weight") for name in changed)
    assert same_bits(weights(), before)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in MODEL.modules())


@pytest.mark.parametrize("place", ["in the block", "while weights are rounded"])
def test_weights_come_back_after_an_exception(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, calls = weights(), []

    def fails(values: Tensor, step: Tensor, bits: int) -> Tensor:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return rounded(values, step, bits)

    if place != "in the block":
        monkeypatch.setattr("omnisift.calibration.fake_quantization.rounded", fails)
    with pytest.raises(KeyboardInterrupt), omnisift.fake_quantized(MODEL, weight_bits=4, activation_bits=4):
        raise KeyboardInterrupt
    assert same_bits(weights(), before)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in MODEL.modules())


def inputs_of_a_layer(inputs: dict[str, Any], **options: Any) -> tuple[Tensor, Tensor]:
    """What one layer gets without and with rounding. It is the first layer, so that both see the same input."""
    seen: list[Tensor] = []
    with torch.no_grad():
        for rounding in (False, True):
            with omnisift.attach(MODEL, half()):
                block = omnisift.fake_quantized(MODEL, **options)
                if rounding:
                    block.__enter__()
                hook = layer_of(MODEL).register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
                MODEL(**inputs)
                hook.remove()
                if rounding:
                    block.__exit__(None, None, None)
    return seen[0], seen[1]


def kinds_of(inputs: dict[str, Any]) -> list[list[int]]:
    with torch.no_grad(), omnisift.attach(MODEL, half()) as attachment:
        MODEL(**inputs)
    assert attachment.last is not None
    mask = inputs["attention_mask"].bool()
    rows = [
        [int(kind) for kind, kept, real in zip(*columns, strict=True) if kept and real]
        for columns in zip(attachment.last.modality, attachment.last.keep, mask, strict=True)
    ]
    width = max(map(len, rows))
    return [[-1] * (width - len(row)) + row for row in rows]


@pytest.mark.parametrize("statistic", ["largest", "percentile"])
@pytest.mark.parametrize("granularity", ["tensor", "modality", "token"])
def test_each_token_has_the_scale_of_its_granularity(granularity: str, statistic: str) -> None:
    """Of a batch with padding, in which `attach` drops tokens."""
    ranges = torch.tensor(RANGES) / (2 if statistic == "percentile" else 1)
    static = {} if granularity == "token" else {"scales": planted(), "statistic": statistic}
    before, after = inputs_of_a_layer(INPUTS, activation_bits=4, granularity=granularity, **static)
    for row, kinds in enumerate(kinds_of(INPUTS)):
        for column, kind in enumerate(kinds):
            if kind < 0:  # padding
                continue
            token = before[row, column]
            shown = {"tensor": ranges.max(), "modality": ranges[kind], "token": token.abs().max()}[granularity]
            expected = (token / (shown / 7)).round().clamp(-7, 7) * (shown / 7)
            torch.testing.assert_close(after[row, column], expected, rtol=0, atol=1e-6)
    assert {kind for row in kinds_of(INPUTS) for kind in row} == {-1, 0, 1, 2}


@torch.no_grad()
@pytest.mark.parametrize("granularity", ["tensor", "modality", "token"])
def test_a_batch_answers_as_its_rows(granularity: str) -> None:
    static = {} if granularity == "token" else {"scales": planted()}
    options: dict[str, Any] = {"weight_bits": 8, "activation_bits": 6, "granularity": granularity, **static}
    batch = logits(INPUTS, **options)
    for index, row in enumerate(ROWS):
        single = row_of(INPUTS, row, index, ROWS)
        found = logits(single, **options)[0]
        # A value on the border between two steps may fall on either side.
        assert (batch[index, -len(found) :] - found).abs().median() < 1e-4
        assert torch.equal(batch[index, -1].argmax(), found[-1].argmax())


@torch.no_grad()
def test_decoded_tokens_have_the_scale_of_text() -> None:
    """Audio and video have a range of which nothing is left; what is decoded is not rounded away."""
    inputs, seen = prompt(ROWS[0]), list[Tensor]()
    with omnisift.attach(MODEL, half()):
        options: dict[str, Any] = {
            "activation_bits": 8,
            "granularity": "modality",
            "scales": planted((4.0, 1e-9, 1e-9, 0)),
        }
        with omnisift.fake_quantized(MODEL, **options):
            hook = layer_of(MODEL).register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
            MODEL.generate(**inputs, max_new_tokens=3)
            hook.remove()
    kinds = torch.tensor(kinds_of(inputs)[0])
    largest = seen[0][0].abs().amax(dim=1)
    assert largest[kinds == Modality.TEXT].min() > 0.1
    assert largest[kinds != Modality.TEXT].max() < 1e-8
    assert [call.shape[1] for call in seen[1:]] == [1, 1]
    assert min(float(call.abs().max()) for call in seen[1:]) > 0.1


def test_a_modality_that_was_not_calibrated_is_refused() -> None:
    with pytest.raises(UsageError, match="the scales are of text, video tokens, and the prompt has audio tokens"):
        logits(activation_bits=8, granularity="modality", scales=planted((4.0, 2.0, 0.0, 0.0)))
    assert logits(activation_bits=8, granularity="tensor", scales=planted((4.0, 2.0, 0.0, 0.0))).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to round"),
        ({"weight_bits": 1}, "weight_bits is a number of bits from 2 to 16 or None, got 1"),
        ({"activation_bits": 17}, "activation_bits is"),
        ({"activation_bits": 4.0}, "activation_bits is"),
        ({"weight_bits": True}, "weight_bits is"),
        ({"activation_bits": 4, "granularity": "channel"}, "granularity must be one of tensor, modality, token"),
        ({"activation_bits": 4, "statistic": "mean"}, "statistic must be one of largest, percentile"),
        ({"activation_bits": 4, "granularity": "tensor"}, "granularity 'tensor' needs static scales"),
        ({"activation_bits": 4, "scales": planted()}, "scales are for"),
        ({"weight_bits": 4, "granularity": "modality", "scales": planted()}, "scales are for"),
    ],
)
def test_wrong_arguments_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error, omnisift.fake_quantized(MODEL, **options):
        pass
    assert "\n" not in str(error.value)


def test_scales_of_another_model_are_refused() -> None:
    other = thinker(num_hidden_layers=1)
    options: dict[str, Any] = {"activation_bits": 8, "granularity": "tensor", "scales": planted()}
    block = omnisift.fake_quantized(other, **options)
    with pytest.raises(CheckpointError, match=r"7 layers differ, such as layers\.1") as error, block:
        pass
    assert "\n" not in str(error.value)


def test_weights_that_are_no_floats_are_refused() -> None:
    other = thinker()
    layer_of(other).weight = torch.nn.Parameter(torch.zeros(32, 32, dtype=torch.int8), requires_grad=False)
    block = omnisift.fake_quantized(other, weight_bits=8)
    with pytest.raises(UnsupportedModel, match=rf"the weight of {LAYER} is torch.int8 on cpu"), block:
        pass


def test_an_encoded_clip_reuses_nothing_across_the_block(clip: Path) -> None:
    """Its keys and values are those of the model as it was."""
    pipe = omnisift.load("nano", retain=0.25, device="cpu")
    encoded = pipe.encode(clip)

    def cached() -> bool:
        return pipe.ask(encoded, "What is heard?", max_new_tokens=1).report.cached_tokens > 0

    assert [cached(), cached()] == [False, True]
    with omnisift.fake_quantized(pipe.host.thinker, activation_bits=8):
        assert not cached()
    assert not cached()
