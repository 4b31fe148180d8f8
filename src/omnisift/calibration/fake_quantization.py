"""Fake-quantised evaluation: weights and activations rounded to the grid of a few bits, in float arithmetic.

It says what the accuracy of a quantised model would be. It is no kernel, and saves neither time nor memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from omnisift.calibration.linears import PADDING, TokenModality, layer_input, linear_layers
from omnisift.calibration.scales import Scales, Statistic, modality_name
from omnisift.errors import UnsupportedModel, UsageError
from omnisift.models import adapter_for
from omnisift.models.own_hooks import OwnHook
from omnisift.tokens import Modality

Granularity = Literal["tensor", "modality", "token"]
MIN_BITS, MAX_BITS = 2, 16
_TINY = 1e-12
"""Smallest scale, for tokens that are zero in all channels."""


@contextmanager
def fake_quantized(
    model: nn.Module,
    *,
    weight_bits: int | None = None,
    activation_bits: int | None = None,
    granularity: Granularity = "token",
    scales: Scales | None = None,
    statistic: Statistic = "largest",
) -> Iterator[TokenModality]:
    """Round the weights and inputs of the language model's linear layers to a grid, in the block.

    Both grids are symmetric. Weights have a scale for each output channel. The arithmetic stays that of the model's
    dtype: this is fake quantisation, for its effect on answers alone. Encoders and head stay as they are, and so do
    weights that are no layer of their own, such as fused experts. At the end of the block the weights are what they
    were, bit for bit, of which a copy is held meanwhile. Gradients are not defined.

    Args:
        model: a Hugging Face model that an adapter exists for. A compressor may be attached before or in the block, as
            `Pipeline.ask` does.
        weight_bits: 2 to 16; None leaves the weights as they are.
        activation_bits: 2 to 16; None leaves the activations as they are.
        granularity: how many scales an input has: ``tensor``, one static scale; ``modality``, one static scale for
            each modality, looked up by token; ``token``, the largest value of each token, which is not static.
        scales: where static scales come from, as `calibrate` makes them; with ``tensor`` and ``modality`` only.
        statistic: the range that a static scale covers: ``largest``, or ``percentile``, without 0.1 % of the values.

    Yields:
        Which tokens the language model reads. Where it is called by itself, set ``given`` before each call.

    Raises:
        CheckpointError: the scales are of another model.
        UnsupportedCall: in the block: with ``modality``, it is not known which tokens a layer reads.
        UnsupportedModel: no adapter exists, or weights to round are quantised already or not loaded.
        UsageError: an argument is out of range, scales are missing or surplus, or a token is of a modality that was not
            calibrated.
    """
    adapter = adapter_for(model)
    layers = linear_layers(adapter)
    _check_arguments(weight_bits, activation_bits, granularity, scales, statistic)
    if scales is not None:
        channels = {name: layer.in_features for name, layer in layers.items()}
        scales.check_fits(channels, type(adapter.parts.head).__name__)
    with ExitStack() as stack:
        tokens = stack.enter_context(TokenModality(adapter))
        if weight_bits is not None:
            stack.enter_context(_rounded_weights(layers, weight_bits))
        stack.enter_context(_other_weights(layers))
        if activation_bits is not None:
            for name, layer in layers.items():
                steps = _steps(scales, name, granularity, statistic, 2 ** (activation_bits - 1) - 1, tokens)
                hook = OwnHook.before(layer, partial(_round_input, steps, activation_bits))
                stack.callback(hook.remove)
        yield tokens


def _check_arguments(
    weight_bits: object, activation_bits: object, granularity: object, scales: Scales | None, statistic: object
) -> None:
    for name, bits in (("weight_bits", weight_bits), ("activation_bits", activation_bits)):
        is_number = isinstance(bits, int) and not isinstance(bits, bool)
        if bits is not None and not (is_number and MIN_BITS <= bits <= MAX_BITS):  # type: ignore[operator]
            raise UsageError(f"{name} is a number of bits from {MIN_BITS} to {MAX_BITS} or None, got {bits!r:.40}")
    if weight_bits is None and activation_bits is None:
        raise UsageError("nothing to round: give weight_bits, activation_bits or both")
    for name, value, known in (("granularity", granularity, Granularity), ("statistic", statistic, Statistic)):
        if value not in get_args(known):
            raise UsageError(f"{name} must be one of {', '.join(get_args(known))}, got {value!r:.40}")
    is_static = activation_bits is not None and granularity != "token"
    if is_static and scales is None:
        raise UsageError(f"granularity {granularity!r} needs static scales: pass scales=calibrate(...)")
    if not is_static and scales is not None:
        raise UsageError("scales are for activations with granularity 'tensor' or 'modality': leave them out")


def rounded(values: Tensor, step: Tensor, bits: int) -> Tensor:
    """Round to the nearest of 2^bits - 1 values around zero.

    Args:
        values: float of any shape.
        step: distance of two values of the grid, which broadcasts against ``values``.
        bits: of the grid.

    Returns:
        What ``values`` become, in their dtype.
    """
    limit = 2 ** (bits - 1) - 1
    step = step.float().clamp(min=_TINY)
    return (values.float() / step).round_().clamp_(-limit, limit).mul_(step).to(values.dtype)


@contextmanager
def _rounded_weights(layers: Mapping[str, nn.Linear], bits: int) -> Iterator[None]:
    """Round the weights in place in the block."""
    weights = {layer.weight: name for name, layer in layers.items()}  # one entry for a weight that layers share
    for weight, name in weights.items():
        if type(weight) is not nn.Parameter or not weight.is_floating_point() or weight.device.type == "meta":
            raise UnsupportedModel(
                f"the weight of {name} is {weight.dtype} on {weight.device}, and can't be rounded: load the model "
                "without quantization and offloading, or leave weight_bits out"
            )
    before: dict[Tensor, Tensor] = {}
    try:
        with torch.no_grad():
            for weight in weights:
                before[weight] = weight.detach().clone()
                weight.copy_(rounded(weight, weight.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1), bits))
        yield
    finally:
        with torch.no_grad():
            for weight, saved in before.items():
                weight.copy_(saved)


@contextmanager
def _other_weights(layers: Mapping[str, nn.Linear]) -> Iterator[None]:
    """Count the weights as changed before and after the block, so that no clip reuses keys and values across it."""
    weights = [layer.weight for layer in layers.values()]
    increment_version(weights)
    try:
        yield
    finally:
        increment_version(weights)


Steps = Callable[[Tensor], Tensor]
"""Activations [..., C] -> the step of the grid of each token, [..., 1] or [1]."""


def _steps(
    scales: Scales | None, name: str, granularity: Granularity, statistic: Statistic, limit: int, tokens: TokenModality
) -> Steps:
    """The steps of one layer's input."""
    if scales is None:
        return lambda activations: activations.abs().amax(dim=-1, keepdim=True).float() / limit
    ranges = scales.ranges(name, statistic)
    if granularity == "tensor":
        shared = ranges.max().view(1) / limit
        return lambda activations: shared.to(activations.device)

    def by_modality(activations: Tensor) -> Tensor:
        modality = tokens.of(activations, name).long()
        unknown = [
            kind for kind in torch.unique(modality).tolist() if kind != PADDING and not _has_tokens(scales, kind)
        ]
        if unknown:
            raise UsageError(
                f"the scales are of {', '.join(scales.counts())} tokens, and the prompt has "
                f"{modality_name(unknown[0])} tokens: calibrate with such prompts"
            )
        # Padding takes the row of text: what it becomes is masked.
        step = ranges[modality.masked_fill(modality == PADDING, int(Modality.TEXT))] / limit
        return step.view(*activations.shape[:-1], 1).to(activations.device)

    return by_modality


def _has_tokens(scales: Scales, kind: int) -> bool:
    return kind < len(scales.tokens) and int(scales.tokens[kind]) > 0


def _round_input(steps: Steps, bits: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ARG001
    activations = layer_input(args, kwargs)
    on_grid = rounded(activations, steps(activations), bits)
    return ((on_grid, *args[1:]), kwargs) if args else ((), {**kwargs, "input": on_grid})
