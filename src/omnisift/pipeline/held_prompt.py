"""Prompts that an encoded clip holds: the keys and values of everything before the question, and what was kept.

A later question whose prompt begins with the same tokens, for the same weights and the same settings of the method,
reads its own tokens alone. What was kept is not decided again, so the method must not look at the question.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from omnisift.compressors import Compressor
from omnisift.compressors.registry import reads_clip_only
from omnisift.models import adapter_for
from omnisift.models.prefix_cache import PrefixCache
from omnisift.pipeline.loading import Host

HOLD_BYTES = 2**30
"""Default of the bytes that a clip may hold. All tokens of 20 s of video in Qwen2.5-Omni-7B are 0.4 GB."""

Key = tuple[Any, ...]

_numbers = count()
_number_of: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()
"""A number for each tensor of weights that was seen. Unlike its ``id``, it is not that of a freed tensor again."""


@dataclass(frozen=True)
class HeldPrompt:
    """The beginning of a prompt."""

    cache: PrefixCache
    keep: Tensor | None
    """[N] bool on the CPU: the tokens that were kept, before compression; None if no compressor looked at it."""
    scores: Tensor | None
    """[N] float on the CPU, as in `Compression`."""
    memo: dict[str, Any] = field(default_factory=dict)
    """What the inspector recorded of the decision."""


class HeldPrompts:
    """The prompts that one clip holds, at most ``max_bytes``; the one that was used longest ago is dropped first.

    Args:
        max_bytes: bytes of keys and values, on the device; 0 holds nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._prompts: OrderedDict[Key, HeldPrompt] = OrderedDict()

    def __len__(self) -> int:
        return len(self._prompts)

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return sum(prompt.cache.nbytes for prompt in self._prompts.values())

    def find(self, key: Key | None) -> HeldPrompt | None:
        """The prompt of a key; None if it is not held."""
        if key is None or key not in self._prompts:
            return None
        self._prompts.move_to_end(key)
        return self._prompts[key]

    def add(self, key: Key, prompt: HeldPrompt) -> None:
        """Hold a prompt if it fits. Prompts of other weights are dropped, for no question can use them.

        Args:
            key: `settings_key`, and the ids of the prompt's beginning.
            prompt: what is held.
        """
        for other in [other for other in self._prompts if other[0] != key[0]]:
            del self._prompts[other]
        if prompt.cache.nbytes > self.max_bytes:
            return
        self._prompts[key] = prompt
        while self.nbytes > self.max_bytes:
            self._prompts.popitem(last=False)

    def clear(self) -> None:
        """Drop all prompts."""
        self._prompts.clear()


def settings_key(host: Host, compressor: Compressor | None) -> Key | None:
    """What a held prompt depends on besides its tokens: the weights and the method. None if it can't be held.

    It can't with a method that may look at the question, while something trains, with another cache than Transformers'
    default, or for a model whose tokens see later ones.
    """
    generation = host.thinker.generation_config
    is_default = generation.use_cache is not False and generation.cache_implementation in (None, "dynamic")
    if host.thinker.training or not is_default or getattr(generation, "prefill_chunk_size", None):
        return None
    if not adapter_for(host.thinker).is_causal:
        return None
    if compressor is None:
        return _stamp(host.thinker), ()
    if compressor.training or not reads_clip_only(compressor):
        return None
    parts = [part for part in compressor.modules() if isinstance(part, Compressor)]
    return _stamp(host.thinker), (_stamp(compressor), *map(_options, parts))


def _stamp(module: nn.Module) -> Key:
    """What changes when weights are replaced, moved or updated in place (but not through ``.data``)."""
    return tuple(
        (_number(tensor), -1 if tensor.is_inference() else tensor._version, *_address(tensor))
        for tensor in chain(module.parameters(), module.buffers())
    )


def _number(tensor: Tensor) -> int:
    return _number_of.setdefault(tensor, next(_numbers))


def _address(tensor: Tensor) -> tuple[int, ...]:
    # Quantised tensors are of other classes and have no address.
    return (tensor.data_ptr(),) if type(tensor) in (Tensor, nn.Parameter) else ()


def _options(compressor: Compressor) -> Key:
    """The class of a method and its options, however they are stored."""
    own = {name: value for name, value in vars(compressor).items() if name not in vars(nn.Module())}
    return type(compressor), tuple((name, repr(value)) for name, value in sorted(own.items()))
