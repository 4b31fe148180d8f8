"""A prompt whose clip was compressed before: the host reads its text, and hooks bring the kept tokens of the clip."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from omnisift.errors import UnsupportedCall
from omnisift.models.base import adapter_for
from omnisift.models.cached_prompt import (
    CachedPrompt,
    cached_length,
    clear_prompt,
    find_cache,
    store_prompt,
    stored_prompt,
)
from omnisift.models.compression import Compression
from omnisift.models.host_arguments import bind_arguments
from omnisift.models.media_encoding import MediaEmbeds
from omnisift.models.own_hooks import OwnHook
from omnisift.tokens import Modality

VIDEO_MARKS = "visual_pos_masks"
"""Argument of language models with side inputs of video tokens: which tokens these are."""


@dataclass(frozen=True)
class ShortPrompt:
    """One prompt of K tokens that are left of the S tokens of the full one."""

    media: MediaEmbeds
    """Of the M kept tokens of the clip; its side inputs are of the N video tokens among them."""
    modality: Tensor
    """[K] int8 on the CPU: `Modality` of each token; those that are not TEXT are the M tokens of the clip."""
    position_ids: Tensor
    """[3, 1, K] on the CPU: rotary positions, which are those of the full prompt."""
    next_position: Tensor
    """[1]: rotary position of the first generated token."""
    compression: Compression
    """What was kept of the full prompt."""
    encoded_tokens: int
    """Video tokens that the vision encoder computed."""

    @property
    def width(self) -> int:
        """``K``."""
        return int(self.position_ids.shape[-1])

    @cached_property
    def column(self) -> Tensor:
        """[M] int64 on the CPU: where the tokens of the clip are among the K tokens, in order."""
        return torch.nonzero(self.modality != Modality.TEXT)[:, 0]


_READ: WeakKeyDictionary[nn.Module, ShortPrompt] = WeakKeyDictionary()
"""Language models that read a short prompt now."""


def short_prompt_of(language_model: nn.Module) -> ShortPrompt | None:
    """The prompt of the `short_prompt` block in which a language model (`Parts.language_model`) is; None outside."""
    return _READ.get(language_model)


@contextmanager
def short_prompt(model: nn.Module, prompt: ShortPrompt) -> Iterator[None]:
    """Let the host read a short prompt in the block, in which ``generate`` gets K tokens that all look like text.

    The hook stands where an attachment's would be, so the language model gets what it gets from one: embeddings,
    positions and side inputs of the kept tokens. In later steps it counts positions on from the full prompt.

    Args:
        model: the host, without an attachment.
        prompt: a prompt of one row.
    """
    language_model: Any = adapter_for(model).parts.language_model
    device = language_model.get_input_embeddings().weight.device

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        arguments = bind_arguments(module, args, kwargs)
        embeds: Tensor = arguments["inputs_embeds"]
        cache = find_cache(arguments)
        # A decoding step: count on from the full prompt.
        cached, state = cached_length(cache), stored_prompt(cache, 1)
        if state is not None and cached:
            return (), {**arguments, "position_ids": _rotary(arguments, state.position_ids(cached, embeds.shape[1]))}
        clear_prompt(cache)
        if embeds.shape[:2] != (1, prompt.width):
            raise UnsupportedCall(
                f"a compressed prompt of {prompt.width} tokens was read as {list(embeds.shape[:2])}: leave out "
                "prefill_chunk_size"
            )
        return (), {**arguments, **_given(prompt, arguments)}

    def leave(_module: nn.Module, _args: Any, kwargs: dict[str, Any], output: Any) -> None:
        cache = find_cache(kwargs)
        if stored_prompt(find_cache(output) if cache is None else cache, 1) is None:
            store_prompt(_state(prompt, device), kwargs, output)

    hooks = OwnHook.before(language_model, enter), OwnHook.after(language_model, leave, with_kwargs=True)
    _READ[language_model] = prompt
    try:
        yield
    finally:
        del _READ[language_model]
        for hook in hooks:
            hook.remove()


def _given(prompt: ShortPrompt, arguments: dict[str, Any]) -> dict[str, Any]:
    """New values of the language model's arguments for the prompt."""
    embeds: Tensor = arguments["inputs_embeds"]
    column = prompt.column.to(embeds.device, non_blocking=True)
    given: dict[str, Any] = {
        "inputs_embeds": embeds.index_copy(1, column, prompt.media.embeds.to(embeds.dtype).unsqueeze(0)),
        "position_ids": _rotary(arguments, prompt.position_ids.to(embeds.device, non_blocking=True)),
    }
    if prompt.media.marked:
        marks = prompt.modality == Modality.VIDEO
        given |= {VIDEO_MARKS: marks.unsqueeze(0).to(embeds.device, non_blocking=True), **prompt.media.marked}
    return given


def _rotary(arguments: dict[str, Any], position_ids: Tensor) -> Tensor:
    """``position_ids`` [3, B, N], behind the row of text positions where the host passes one."""
    given = arguments.get("position_ids")
    if isinstance(given, Tensor) and given.ndim == 3 and given.shape[0] == 4:
        return torch.cat([given[:1].to(position_ids.dtype), position_ids])
    return position_ids


def _state(prompt: ShortPrompt, device: torch.device) -> CachedPrompt:
    return CachedPrompt(
        width=prompt.width,
        text_tail=0,
        dropped=torch.zeros(1, dtype=torch.int64, device=device),
        next_position=prompt.next_position.to(device, non_blocking=True),
        padding_mask=None,
    )
