"""Prompts that an encoded clip holds: the keys and values of everything before the question, and what was kept.

A later question whose prompt begins with the same tokens, for the same weights and the same settings of the method,
reads its own tokens alone. What was kept is not decided again, so the method must not look at the question.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from omnisift.budget import Counts
from omnisift.compressors import Compressor
from omnisift.compressors.registry import reads_clip_only
from omnisift.models import adapter_for
from omnisift.models.attachment import Attachment
from omnisift.models.prefix_cache import PrefixCache, PrefixHooks
from omnisift.pipeline.loading import Host
from omnisift.tokens import Selection, TokenStream

if TYPE_CHECKING:
    from omnisift.pipeline.encoded_clip import PromptRow

HOLD_BYTES = 2**30
"""Default of the bytes that a clip may hold. All tokens of 20 s of video in Qwen2.5-Omni-7B are 0.4 GB."""

Key = tuple[Any, ...]


@dataclass(frozen=True)
class HeldPrompt:
    """The beginning of a prompt."""

    cache: PrefixCache
    keep: Tensor | None
    """[N] bool on the CPU: the tokens that were kept, before compression; None if no compressor looked at it."""
    scores: Tensor | None
    """[N] float on the CPU, as in `Compression`."""
    memo: dict[str, Any] = field(default_factory=dict)
    """What else is known of the decision, for the inspector."""


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
        """The prompt of a key of `prompt_key`; None if it is not held."""
        if key not in self._prompts:
            return None
        self._prompts.move_to_end(key)
        return self._prompts[key]

    def add(self, key: Key, prompt: HeldPrompt) -> None:
        """Hold a prompt if it fits. Prompts of other weights are dropped, for no question can use them."""
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

    It can't with a method that may look at the question, while something trains, or with another cache than
    Transformers' default.
    """
    generation = host.thinker.generation_config
    is_default = generation.use_cache is not False and generation.cache_implementation in (None, "dynamic")
    if host.thinker.training or not is_default or getattr(generation, "prefill_chunk_size", None):
        return None
    if compressor is None:
        return _stamp(host.thinker), ()
    if compressor.training or not reads_clip_only(compressor):
        return None
    parts = [part for part in compressor.modules() if isinstance(part, Compressor)]
    return _stamp(host.thinker), (_stamp(compressor), *map(_options, parts))


def prompt_key(row: PromptRow, settings: Key | None) -> Key | None:
    """The key of the beginning of a prompt, given `settings_key`; None if it can't be held."""
    if settings is None or row.clip is None or not row.clip.held.max_bytes:
        return None
    return *settings, row.inputs["input_ids"][:, : row.shared].numpy().tobytes()


class Holding:
    """What one ``generate`` call takes from the held prompts of its clips, or adds to them.

    Args:
        host: the model.
        compressor: the method; None keeps every token.
        rows: the prompts of the call.
    """

    def __init__(self, host: Host, compressor: Compressor | None, rows: Sequence[PromptRow]) -> None:
        self._host, self._rows = host, rows
        settings = settings_key(host, compressor) if any(row.clip is not None for row in rows) else None
        self._keys = [prompt_key(row, settings) for row in rows]
        clips = [row.clip for row in rows]
        found = [None if clip is None else clip.held.find(key) for clip, key in zip(clips, self._keys, strict=True)]
        held = [prompt for prompt in found if prompt is not None]
        if len(held) < len(rows) or (len(rows) > 1 and not all(prompt.cache.can_join for prompt in held)):
            held = []
        self.compressor = compressor
        """What to attach: a method that repeats what was decided, if all prompts are held."""
        self.cached = [prompt.cache.length for prompt in held] or [0] * len(rows)
        """Tokens of each prompt that the language model need not read."""
        self._held = held
        if held and compressor is not None:
            self.compressor = _Repeat(compressor, held, [self._length(row) for row in rows])

    @contextmanager
    def hooks(self, attachment: Attachment | None) -> Iterator[None]:
        """Give held prompts to the language model in the block, or take those of the call; enter it after `attach`."""
        if not self._held and not any(self._keys):
            yield
            return
        suffixes = [self._length(row) - row.shared for row in self._rows]
        given = [prompt.cache for prompt in self._held] or None
        language_model = adapter_for(self._host.thinker).parts.language_model
        with PrefixHooks(language_model, lambda: self._kept(attachment), suffixes, given) as hooks:
            yield
        for index, (row, key, cache) in enumerate(zip(self._rows, self._keys, hooks.taken, strict=False)):
            if row.clip is not None and key is not None:
                keep, scores = self._decision(attachment, index)
                row.clip.held.add(key, HeldPrompt(cache, keep, scores))

    @staticmethod
    def _length(row: PromptRow) -> int:
        return int(row.inputs["input_ids"].shape[1])

    def _kept(self, attachment: Attachment | None) -> list[int]:
        """Tokens of each row's beginning, after compression."""
        kept = [self._decision(attachment, index)[0] for index in range(len(self._rows))]
        return [row.shared if keep is None else int(keep.sum()) for row, keep in zip(self._rows, kept, strict=True)]

    def _decision(self, attachment: Attachment | None, index: int) -> tuple[Tensor | None, Tensor | None]:
        """``keep`` and ``scores`` of a row's beginning; None without any."""
        compression = None if attachment is None else attachment.last
        if compression is None:
            return None, None
        row = self._rows[index]
        begin = compression.keep.shape[1] - self._length(row)  # of padding on the left
        columns = slice(begin, begin + row.shared)
        scores = None if compression.scores is None else compression.scores[index, columns].clone()
        return compression.keep[index, columns].clone(), scores


class _Repeat(Compressor):
    """Keeps what was kept of held prompts. What a method merged is not needed, for its keys and values are held."""

    name: ClassVar[str] = "held"

    def __init__(self, compressor: Compressor, held: Sequence[HeldPrompt], lengths: Sequence[int]) -> None:
        super().__init__(compressor.budget)
        self._held, self._lengths = held, lengths
        self.eval()

    def forward(self, stream: TokenStream) -> Selection:
        """Keep the same tokens of each row, and all others."""
        width = len(stream) // len(self._held)
        keep, scores = (
            torch.ones(len(self._held), width, dtype=torch.bool),
            torch.full((len(self._held), width), torch.nan),
        )
        has_scores = False
        for row, (prompt, length) in enumerate(zip(self._held, self._lengths, strict=True)):
            for target, source in ((keep, prompt.keep), (scores, prompt.scores)):
                if source is not None:
                    target[row, width - length : width - length + len(source)] = source
            has_scores |= prompt.scores is not None
        device = stream.embeds.device
        return Selection(keep.flatten().to(device), scores.flatten().to(device) if has_scores else None)

    def select(self, stream: TokenStream, counts: Counts) -> Selection:  # noqa: ARG002  the counts were met before
        """As `forward`."""
        return self.forward(stream)


def _stamp(module: nn.Module) -> Key:
    """What changes when weights are replaced, moved or updated in place (but not through ``.data``)."""
    return tuple(
        (id(tensor), -1 if tensor.is_inference() else tensor._version, *_address(tensor))
        for tensor in chain(module.parameters(), module.buffers())
    )


def _address(tensor: Tensor) -> tuple[int, ...]:
    # Quantised tensors are of other classes and have no address.
    return (tensor.data_ptr(),) if type(tensor) in (Tensor, nn.Parameter) else ()


def _options(compressor: Compressor) -> Key:
    """The class of a method and its options, however they are stored."""
    own = {name: value for name, value in vars(compressor).items() if name not in vars(nn.Module())}
    return type(compressor), tuple((name, repr(value)) for name, value in sorted(own.items()))
