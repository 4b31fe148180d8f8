"""The keys and values of a stream: appended, selected, and moved to other rotary positions."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from omnisift.errors import UnsupportedModel
from omnisift.models.cached_prompt import cache_argument
from omnisift.models.prefix_cache import PrefixCache


class StreamCache:
    """A `DynamicCache` of one row whose first tokens stay, and whose others can be dropped and moved.

    Cached keys are rotated by their positions, and rotations add up, so that keys are moved without the model.

    Args:
        language_model: `Parts.language_model`, with three rows of positions.
        keeps_read: whether keys are kept as they were read, so that errors of many rotations in 16 bits don't add up.

    Raises:
        UnsupportedModel: the model's cache is not one of keys and values of every token, or its positions are not
            rotations that add up.
    """

    def __init__(self, language_model: Any, *, keeps_read: bool) -> None:
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        self._model: Any = language_model
        self._cache: Any = DynamicCache(config=language_model.config)
        kinds = {type(layer).__name__ for layer in self._cache.layers if type(layer) is not DynamicLayer}
        if kinds:
            raise UnsupportedModel(
                f"a stream needs a cache of all keys and values, but this model has {', '.join(kinds)}"
            )
        _check_rotary(language_model)
        self._read: list[Tensor] | None = [] if keeps_read else None
        self._moved = torch.zeros(3, 0, dtype=torch.int64)
        self._fixed = 0

    def __len__(self) -> int:
        return int(self._cache.get_seq_length())

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        tensors = [*(self._read or ())]
        for layer in self._cache.layers:
            if getattr(layer, "keys", None) is not None:
                tensors += [layer.keys, layer.values]
        return sum(tensor.nbytes for tensor in tensors)

    @property
    def no_embeds(self) -> Tensor:
        """[0, D]: embeddings of no token."""
        weight: Tensor = self._model.get_input_embeddings().weight
        return weight.new_zeros(0, weight.shape[1])

    def append(self, embeds: Tensor, position_ids: Tensor, side_inputs: Mapping[str, Any] | None = None) -> None:
        """Let the language model read N more tokens.

        Args:
            embeds: [N, D] on the device.
            position_ids: [3, N] int64.
            side_inputs: further arguments of the language model.
        """
        if not len(embeds):
            return
        begin, device = len(self), embeds.device
        text = torch.arange(begin, begin + len(embeds)).unsqueeze(0)
        positions = torch.cat([text, position_ids]).unsqueeze(1).to(device)
        self._model(
            inputs_embeds=embeds.unsqueeze(0),
            position_ids=positions,
            use_cache=True,
            **cache_argument(self._model, self._cache),
            **(side_inputs or {}),
        )
        self._moved = torch.cat([self._moved, torch.zeros_like(position_ids)], dim=1)
        if self._read is not None:
            new = [layer.keys[:, :, begin:] for layer in self._cache.layers]
            self._read = [torch.cat(pair, dim=2) for pair in zip(self._read, new, strict=True)] if self._read else new

    def fix(self) -> None:
        """Let the tokens so far stay where they are: `select` and `move` count those behind them."""
        self._fixed = len(self)

    def select(self, index: Tensor) -> None:
        """Drop all tokens behind the fixed ones but those at ``index`` [K] int64."""
        index = torch.cat([torch.arange(self._fixed), index + self._fixed])
        self._moved = self._moved[:, index]
        index = index.to(self._cache.layers[0].keys.device, non_blocking=True)
        for layer in self._cache.layers:
            there = index.to(layer.keys.device)
            layer.keys, layer.values = layer.keys.index_select(2, there), layer.values.index_select(2, there)
        if self._read:
            self._read = [keys.index_select(2, index.to(keys.device)) for keys in self._read]

    def move(self, total: Tensor) -> None:
        """Move the tokens behind the fixed ones.

        Args:
            total: [3, K] int64: how far each is from the rotary positions at which it was read.
        """
        delta = total if self._read is not None else total - self._moved[:, self._fixed :]
        if not bool((total != self._moved[:, self._fixed :]).any()):
            return
        self._moved = torch.cat([self._moved[:, : self._fixed], total], dim=1)
        layers = self._cache.layers
        cos, sin = self._rotation(delta.to(layers[0].keys.device, non_blocking=True), layers[0].keys)
        for number, layer in enumerate(layers):
            source = layer.keys if self._read is None else self._read[number]
            keys = source[:, :, self._fixed :]
            turned = keys * cos.to(keys.device) + _half(keys) * sin.to(keys.device)
            layer.keys = torch.cat([layer.keys[:, :, : self._fixed], turned.to(keys.dtype)], dim=2)

    def _rotation(self, delta: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine [1, 1, K, head width] of a rotation by ``delta`` [3, K]."""
        rotary = self._model.rotary_emb
        cos, sin = rotary(keys.float(), delta.unsqueeze(1))
        if cos.ndim == 4:  # a row for time, height and width each, up to Transformers 5.20
            section = 2 * list(_sections(self._model.config))
            cos, sin = (
                torch.cat([part[number % 3] for number, part in enumerate(value.split(section, dim=-1))], dim=-1)
                for value in (cos, sin)
            )
        scale = float(getattr(rotary, "attention_scaling", 1.0))
        return cos.unsqueeze(1) / scale, sin.unsqueeze(1) / scale

    def fork(self) -> StreamCache:
        """A cache with the same tokens; what is appended to it is not in this one."""
        made = copy.copy(self)
        made._cache = copy.copy(self._cache)
        made._cache.layers = [copy.copy(layer) for layer in self._cache.layers]
        made._read = None if self._read is None else list(self._read)
        return made

    def prefix(self) -> PrefixCache:
        """Its layers, for a call of ``generate``."""
        return PrefixCache(tuple(copy.copy(layer) for layer in self._cache.layers), len(self))

    def tensors(self) -> list[Tensor]:
        """Keys and values of every layer."""
        return [tensor for layer in self._cache.layers for tensor in (layer.keys, layer.values)]


def _half(keys: Tensor) -> Tensor:
    first, second = keys.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def _sections(config: Any) -> list[int]:
    parameters = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return list(parameters["mrope_section"])


def _check_rotary(language_model: nn.Module) -> None:
    rotary: Any = getattr(language_model, "rotary_emb", None)
    kind = str(getattr(rotary, "rope_type", "default"))
    if rotary is None or "dynamic" in kind or kind == "longrope":
        raise UnsupportedModel(f"a stream moves cached keys, which rotary positions of the kind {kind!r} don't allow")
    config: Any = language_model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if 2 * rotary.inv_freq.shape[-1] != width:
        raise UnsupportedModel("a stream moves cached keys, but this model rotates a part of each alone")
