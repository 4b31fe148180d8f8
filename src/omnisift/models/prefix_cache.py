"""The keys and values of a prompt's beginning, taken from one call of ``generate`` and given to another.

Both sit between an attachment's hook and the language model, where a prompt is cut and its positions are known:

    taking    layers of keys alone are sliced after the prompt. Others, which have a state or a window, can't be
              cropped: for these the language model reads the beginning first, and the layers are copied in between
    giving    the host's empty cache gets the layers, and the language model reads what follows the beginning

Rows of a batch are padded on the left. Given beginnings are padded as well, so that padding lies before and between
both parts; the mask of every step says where.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from omnisift.errors import UnsupportedCall
from omnisift.models.cached_prompt import find_cache, stored_prompt
from omnisift.models.host_arguments import bind_arguments
from omnisift.models.own_hooks import OwnHook

_PER_TOKEN = ("visual_pos_masks", "mm_token_type_ids", "per_layer_inputs")
_OF_MEDIA = ("visual_pos_masks", "deepstack_visual_embeds")
"""Side inputs of tokens of media, all of which are in the beginning."""


@dataclass(frozen=True)
class PrefixCache:
    """The cache of one prompt's beginning, on the device of the language model. Nothing in it is ever changed."""

    layers: tuple[Any, ...]
    """Layers of a ``DynamicCache`` with one row."""
    length: int
    """Tokens in it, after compression."""

    @property
    def can_join(self) -> bool:
        """Whether it can be one row of several."""
        return _is_plain(self.layers)

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for layer in self.layers for tensor in _tensors(layer))


class PrefixHooks:
    """Takes or gives the beginnings of the rows of one ``generate`` call, in its ``with`` block.

    Enter it after `attach`, whose hook then runs first.

    Args:
        language_model: `Parts.language_model`.
        lengths: called when the prompt arrives; returns the tokens of each row's beginning, after compression.
        suffixes: tokens of each row after its beginning.
        given: the beginnings; None takes them, into `taken`.
    """

    def __init__(
        self,
        language_model: nn.Module,
        lengths: Callable[[], list[int]],
        suffixes: Sequence[int],
        given: Sequence[PrefixCache] | None = None,
    ) -> None:
        self.taken: list[PrefixCache] = []
        """One for each row; empty if the cache of this model can't be taken."""
        self._language_model = language_model
        self._lengths, self._suffixes, self._given = lengths, list(suffixes), given
        self._is_read = False
        self._mask: Tensor | None = None
        self._handles: list[OwnHook] = []

    def __enter__(self) -> PrefixHooks:
        self._handles = [
            OwnHook.before(self._language_model, self._enter),
            OwnHook.after(self._language_model, self._leave, with_kwargs=True),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        arguments = bind_arguments(module, args, kwargs)
        if self._is_read:
            return (), self._continued(arguments)
        cache = find_cache(arguments)
        if self._given is not None:
            _check_dynamic(cache)
            cache.layers = _joined([prefix.layers for prefix in self._given], [row.length for row in self._given])
            self._mask = self._padding(arguments["inputs_embeds"].device)
            return (), {**_suffix(arguments, max(self._suffixes)), "attention_mask": self._mask}
        if cache is None or len(self._suffixes) > 1 or _is_plain(cache.layers) or not _can_copy(cache):
            return None
        # The state of these layers can't be cropped: read the beginning alone, and copy the state.
        (length,) = self._lengths()
        forward: Any = module.forward  # without its hooks
        forward(**_prefix(arguments, length))
        self.taken = [PrefixCache(tuple(map(_copy_layer, cache.layers)), length)]
        return (), _suffix(arguments, self._suffixes[0])

    def _leave(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:  # noqa: ARG002
        if self._is_read:
            return
        self._is_read = True
        cache = find_cache(kwargs)
        cache = find_cache(output) if cache is None else cache
        if self._given is None:
            if cache is not None and not self.taken and _is_plain(cache.layers) and _can_copy(cache):
                self.taken = _slices(cache.layers, self._lengths(), self._suffixes)
        elif (prompt := stored_prompt(cache, len(self._suffixes))) is not None:
            # Padding between both parts made the prompt longer than its cut.
            prompt.width = int(cache.get_seq_length())
            prompt.padding_mask = self._mask

    def _continued(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a decoding step."""
        if self._mask is None:
            return arguments
        new = self._mask.new_ones(len(self._mask), arguments["inputs_embeds"].shape[1])
        self._mask = torch.cat([self._mask, new], dim=1)
        return {**arguments, "attention_mask": self._mask}

    def _padding(self, device: torch.device) -> Tensor | None:
        """[B, P + S] int64: 1 on the tokens of the beginnings and of what follows; None for a single row."""
        parts = [[row.length for row in self._given or ()], self._suffixes]
        if len(self._suffixes) == 1:
            return None
        widths = [torch.arange(max(part), 0, -1) <= torch.tensor(part).unsqueeze(1) for part in parts]
        return torch.cat(widths, dim=1).long().to(device)


def _check_dynamic(cache: Any) -> None:
    """Refuse a cache that would not hold given layers as it was asked to."""
    from transformers import DynamicCache

    if type(cache) is not DynamicCache:
        raise UnsupportedCall(
            f"a {type(cache).__name__} can't take the keys and values of a stream or a held prompt: leave "
            "cache_implementation out of the model's generation_config"
        )


def _is_plain(layers: Sequence[Any]) -> bool:
    """Whether all layers hold the keys and values of every token, and nothing else."""
    from transformers.cache_utils import DynamicLayer

    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def _can_copy(cache: Any) -> bool:
    """Whether the cache is Transformers' own, on the device, and consists of layers that `_copy_layer` knows."""
    from transformers import cache_utils

    names = (
        "DynamicLayer",
        "DynamicSlidingWindowLayer",
        "DummyLayer",
        "LinearAttentionLayer",
        "LinearAttentionAndFullAttentionLayer",
    )
    known = tuple(getattr(cache_utils, name) for name in names if hasattr(cache_utils, name))
    is_own = type(cache) is cache_utils.DynamicCache and not getattr(cache, "offloading", False)
    return is_own and bool(cache.layers) and all(type(layer) in known for layer in cache.layers)


def _tensors(layer: Any) -> list[Tensor]:
    values = [
        part for value in vars(layer).values() for part in (value.values() if isinstance(value, dict) else [value])
    ]
    return [value for value in values if isinstance(value, Tensor)]


def _copy_layer(layer: Any) -> Any:
    """A layer that can be updated without a change of ``layer``.

    Keys and values are replaced in an update, so both may share them; states, which are in dicts, are written on.
    """
    made = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, dict):
            copies = {key: part.clone() if isinstance(part, Tensor) else part for key, part in value.items()}
            setattr(made, name, copies)
    return made


def _joined(rows: Sequence[Sequence[Any]], lengths: Sequence[int]) -> list[Any]:
    """Layers with the given rows, padded on the left; several rows are of plain layers."""
    if len(rows) == 1:
        return [_copy_layer(layer) for layer in rows[0]]
    made, width = [], max(lengths)
    for parts in zip(*rows, strict=True):
        layer = copy.copy(parts[0])
        for name in ("keys", "values"):
            tensors = [nn.functional.pad(getattr(part, name), (0, 0, width - part.keys.shape[-2], 0)) for part in parts]
            setattr(layer, name, torch.cat(tensors))
        made.append(layer)
    return made


def _slices(layers: Sequence[Any], lengths: Sequence[int], suffixes: Sequence[int]) -> list[PrefixCache]:
    """The beginning of each row of plain layers that hold the prompt, which is padded on the left."""
    taken = []
    for row, (length, suffix) in enumerate(zip(lengths, suffixes, strict=True)):
        parts = []
        for layer in layers:
            part, end = copy.copy(layer), layer.keys.shape[-2] - suffix
            for name in ("keys", "values"):
                tensor = getattr(layer, name)[row : row + 1, :, end - length : end]
                # A view of several rows would keep all of them.
                setattr(part, name, tensor if len(lengths) == 1 else tensor.clone())
            parts.append(part)
        taken.append(PrefixCache(tuple(parts), length))
    return taken


def _prefix(arguments: dict[str, Any], length: int) -> dict[str, Any]:
    """The arguments for the first ``length`` tokens of a single row without padding."""
    return {**_narrowed(arguments, slice(length)), "attention_mask": None}


def _suffix(arguments: dict[str, Any], length: int) -> dict[str, Any]:
    """The arguments for the last ``length`` tokens, which are text, when the cache holds the others."""
    without = dict.fromkeys(name for name in _OF_MEDIA if name in arguments)
    return {**_narrowed(arguments, slice(-length, None)), "attention_mask": None, **without}


def _narrowed(arguments: dict[str, Any], columns: slice) -> dict[str, Any]:
    narrow: dict[str, Any] = {"inputs_embeds": arguments["inputs_embeds"][:, columns]}
    if arguments.get("position_ids") is not None:
        narrow["position_ids"] = arguments["position_ids"][..., columns]
    for name in _PER_TOKEN:
        if arguments.get(name) is not None:
            narrow[name] = arguments[name][:, columns]
    return {**arguments, **narrow}
