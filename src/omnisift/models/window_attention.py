"""One call of the attention kernel for all windows of a vision encoder that have the same size.

The vision encoders of Qwen attend within frames, and in Qwen2.5 mostly within windows of 112 x 112 pixels. Outside of
FlashAttention, Transformers calls the kernel once for each of them and in each layer: 40,320 calls for a minute of
video in 7B. Here, an attention function that is registered through Transformers' own interface takes them together.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from omnisift.models.base import adapter_for
from omnisift.models.host_arguments import bind_arguments
from omnisift.models.own_hooks import OwnHook

NAME = "omnisift_windows"
"""Name of the attention function among those of Transformers."""
_BASE = "sdpa"
"""The function that it calls, and the only one that it replaces."""
MAX_WEIGHTS = 2**28
"""Attention weights of one call. Fused kernels do not store them; others need a gigabyte in float32."""


@contextmanager
def batched_windows(model: nn.Module) -> Iterator[None]:
    """Let the vision encoder of a host attend within all windows of one size in one call, in the block.

    The encoder's configuration names another attention function while the encoder runs, and hooks on its attention
    modules pass the windows to that function; nothing of it is left afterwards. Encoders with another kernel than
    ``sdpa``, in training, compiled, or built in another way are left alone.

    Args:
        model: the host.
    """
    encoder = adapter_for(model).parts.vision_encoder
    attentions = [] if encoder is None else _attentions(encoder)
    if encoder is None or not attentions:
        yield
        return
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, window_attention)
    run = _Run(attentions)
    hooks = [
        OwnHook.before(encoder, run.start),
        *(OwnHook.before(attention, run.pass_windows) for attention in attentions),
        OwnHook.after(encoder, run.end, always_call=True),
    ]
    with ExitStack() as stack:
        for hook in hooks:
            stack.callback(hook.remove)
        yield


def _attentions(encoder: Any) -> list[Any]:
    """The attention modules of an encoder whose windows can be taken together; none if one is not known."""
    found = [getattr(block, "attn", None) for block in getattr(encoder, "blocks", [])]
    parts = [encoder, *getattr(encoder, "blocks", []), *found]
    if encoder.training or any(getattr(part, "_compiled_call_impl", None) is not None for part in parts):
        return []
    return found if all(_is_known(attention) for attention in found) else []


def _is_known(attention: Any) -> bool:
    """Whether a module takes ``cu_seqlens``, passes what it does not know to the kernel, and uses ``sdpa``."""
    parameters = inspect.signature(type(attention).forward).parameters
    takes_more = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    kernel = getattr(getattr(attention, "config", None), "_attn_implementation", None)
    return takes_more and "cu_seqlens" in parameters and kernel == _BASE


class _Run:
    """Runs of one encoder: its windows, which all layers share, and the configuration that is changed meanwhile."""

    def __init__(self, attentions: Sequence[Any]) -> None:
        self._configs = list({id(attention.config): attention.config for attention in attentions}.values())
        self._windows: list[tuple[Tensor, list[Tensor]]] = []

    def start(self, _module: nn.Module, _args: tuple[Any, ...], _kwargs: dict[str, Any]) -> None:
        for config in self._configs:
            config._attn_implementation = NAME

    def pass_windows(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Tell the attention module of one sequence, which it then does not divide, and its kernel of the windows."""
        arguments = bind_arguments(module, args, kwargs)
        bounds: Tensor = arguments["cu_seqlens"]
        length = arguments["hidden_states"].shape[0]
        return (), {**arguments, "cu_seqlens": torch.tensor([0, length]), NAME: self._groups(bounds)}

    def _groups(self, bounds: Tensor) -> list[Tensor]:
        """`window_groups` of ``bounds``; read from the device once for each of the few tensors that layers share."""
        for known, groups in self._windows:
            if known is bounds:
                return groups
        groups = [group.to(bounds.device, non_blocking=True) for group in window_groups(bounds.tolist())]
        self._windows.append((bounds, groups))
        return groups

    def end(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        self._windows.clear()
        for config in self._configs:
            config._attn_implementation = _BASE


def window_groups(bounds: Sequence[int]) -> list[Tensor]:
    """Sort windows by their size.

    Args:
        bounds: where windows begin and end, as ``cu_seqlens``.

    Returns:
        For each size, [N, n] int64: the places of its N windows of n patches.
    """
    starts = dict[int, list[int]]()
    for start, stop in itertools.pairwise(bounds):
        if stop > start:
            starts.setdefault(stop - start, []).append(start)
    return [torch.tensor(first).unsqueeze(1) + torch.arange(size) for size, first in starts.items()]


def window_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attend within windows, one call for each size; without windows among ``options``, as ``sdpa`` does.

    Args:
        module: the attention module.
        query: [1, H, T, d], as ``key`` and ``value`` are.
        key: the keys.
        value: the values.
        attention_mask: None, where there are windows.
        options: those of ``sdpa``, and the groups of `window_groups`.

    Returns:
        [1, T, H, d], and no weights.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    sdpa: Any = ALL_ATTENTION_FUNCTIONS[_BASE]
    groups: list[Tensor] | None = options.pop(NAME, None)
    if groups is None:
        return sdpa(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
    _, heads, length, width = query.shape
    output = query.new_empty(length, heads, width)
    for group in groups:
        start = 0
        for part in torch.split(group, max(1, MAX_WEIGHTS // (heads * group.shape[1] ** 2))):
            stop = start + part.numel()
            # Windows of one size alone are in their order, and need no copies.
            places = slice(start, stop) if len(groups) == 1 else part.flatten()
            sides = (side[0][:, places].view(heads, *part.shape, width).transpose(0, 1) for side in (query, key, value))
            output[places] = sdpa(module, *sides, None, **options)[0].flatten(0, 1)
            start = stop
    return output.unsqueeze(0), None
