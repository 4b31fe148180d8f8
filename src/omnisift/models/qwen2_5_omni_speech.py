"""Speech output of the full Qwen2.5-Omni after a compressed prompt.

``generate`` of the full model adds the Thinker's hidden states of the prompt to embeddings of the full ``input_ids``
and passes the sum, two tokens longer, to the talker with the full attention mask. So the hidden states that it reads
(the first and the last) are returned at full length, and the talker's language model gets the Thinker's cut.
Between the two the host works with full lengths, positions included.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from omnisift.models.adapter import HasCut
from omnisift.models.cached_prompt import (
    CachedPrompt,
    cached_length,
    clear_prompt,
    find_cache,
    store_prompt,
    stored_prompt,
)
from omnisift.models.host_arguments import (
    bind_arguments,
    cut_arguments,
    cut_mask,
    decode_arguments,
    read_positions,
    rotary_rows,
)
from omnisift.models.own_hooks import OwnHook
from omnisift.models.prompt_cut import PromptCut
from omnisift.tokens import Selection

TALKER_SUFFIX = 2
"""Tokens that ``generate`` appends to the talker's prompt: begin of speech, and the first word."""


class TalkerHooks:
    """Applies the Thinker's latest cut to the talker's prompt."""

    def __init__(self, attachment: HasCut, talker: nn.Module) -> None:
        """Prepare without hooking anything.

        Args:
            attachment: of the Thinker.
            talker: the speech model, whose language model is ``talker.model``.
        """
        self._attachment = attachment
        self._talker = talker
        self._cut: PromptCut | None = None
        self._unstored: CachedPrompt | None = None

    def register(self, thinker: nn.Module) -> list[OwnHook]:
        """Hook the Thinker and the talker's language model."""
        language_model: Any = self._talker.model
        return [
            OwnHook.after(thinker, self._leave_thinker, with_kwargs=True),
            OwnHook.before(language_model, self._enter_language_model),
            OwnHook.after(language_model, self._leave_language_model, with_kwargs=True),
        ]

    def _leave_thinker(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:  # noqa: ARG002
        """Restore the length of the hidden states that ``generate`` reads."""
        cut, cache = self._attachment.cut, find_cache(kwargs)
        hidden_states = getattr(output, "hidden_states", None)
        if cut is None:
            self._cut = None
            return None
        # A plain forward passes no cache, and its hidden states keep the cut length.
        if cache is None or hidden_states is None or hidden_states[0].shape[:2] != cut.source.shape:
            return None
        if cached_length(cache) != cut.width:
            return None  # a later step
        self._cut = cut.extended(TALKER_SUFFIX)
        first, last = cut.restore_length(hidden_states[0]), cut.restore_length(hidden_states[-1])
        output["hidden_states"] = (first, *hidden_states[1:-1], last)
        return output

    def _enter_language_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        arguments = bind_arguments(module, args, kwargs)
        cache = find_cache(arguments)
        inputs_embeds: Any = arguments.get("inputs_embeds")
        cached = cached_length(cache)
        cached_prompt = stored_prompt(cache, len(inputs_embeds)) if cached and inputs_embeds is not None else None
        if cached_prompt is not None:
            # The talker counts positions from its cache, which is shorter than the prompt was.
            position_ids = cached_prompt.position_ids(cached, inputs_embeds.shape[1])
            return (), decode_arguments(cached_prompt, {**arguments, "position_ids": position_ids})
        if not cached:
            clear_prompt(cache)
        cut, self._cut = self._cut, None
        if cut is None or inputs_embeds is None or inputs_embeds.shape[:2] != cut.kept.shape:
            return None
        return (), self._cut_prompt(arguments, inputs_embeds, cut)

    def _cut_prompt(self, arguments: dict[str, Any], inputs_embeds: Tensor, cut: PromptCut) -> dict[str, Any]:
        """Arguments of the talker's language model for the cut prompt."""
        rows, length = inputs_embeds.shape[:2]
        position_ids = rotary_rows(read_positions(arguments.get("position_ids"), rows, length), rows, length)
        keep = (cut.kept | ~cut.full_mask).flatten().to(inputs_embeds.device, non_blocking=True)
        # The talker's cache is never cropped, so no token needs to count as text.
        in_clip = torch.ones_like(cut.kept)
        self._unstored = CachedPrompt.of(cut, position_ids[-3:], in_clip, inputs_embeds.device)
        attention_mask = cut_mask(cut, arguments.get("attention_mask"), inputs_embeds.device)
        return cut_arguments(arguments, cut, Selection(keep), position_ids, attention_mask, {})

    def _leave_language_model(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:  # noqa: ARG002
        unstored, self._unstored = self._unstored, None
        store_prompt(unstored, kwargs, output)
