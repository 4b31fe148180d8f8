"""Speech output of the full Qwen2.5-Omni behind a compressed prompt.

The full model's ``generate`` lays the Thinker's hidden states of the prompt over the full ``input_ids`` and hands the
sum, two tokens longer, to the talker with the full attention mask. So two things must happen here: the hidden states it
reads (the first and the last) come back at full length, and the talker's own language model gets the Thinker's cut.
Between the two the host works with full lengths throughout, positions included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from omnisift.models.cached_prompt import CachedPrompt, cached_length, forget, note, recall
from omnisift.models.host_arguments import by_name, positions_handed, repaired, shortened
from omnisift.models.prompt_cut import Cut
from omnisift.tokens import Selection

if TYPE_CHECKING:
    from omnisift.models.attachment import Attachment

FRAME = 2
"""What ``generate`` puts behind the prompt for the talker: the begin-of-speech token and the first word."""


class Speech:
    """Carries the Thinker's latest cut over to the talker."""

    def __init__(self, attachment: Attachment, talker: nn.Module) -> None:
        self._attachment = attachment
        self._talker = talker
        self._cut: Cut | None = None
        self._unnoted: CachedPrompt | None = None

    def hooks(self, thinker: nn.Module) -> list[RemovableHandle]:
        """Register on the Thinker and on the talker's language model."""
        language_model: Any = self._talker.model
        return [
            thinker.register_forward_hook(self._leave_thinker, with_kwargs=True),
            language_model.register_forward_pre_hook(self._enter, with_kwargs=True),
            language_model.register_forward_hook(self._leave, with_kwargs=True),
        ]

    def _leave_thinker(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:  # noqa: ARG002
        """Widen what ``generate`` reads. A plain forward passes no cache and keeps the cut length."""
        cut, cache = self._attachment.cut, kwargs.get("past_key_values")
        states = getattr(output, "hidden_states", None)
        if cut is None:
            self._cut = None
            return None
        if cache is None or states is None or states[0].shape[:2] != cut.source.shape:
            return None
        if cached_length(cache) != cut.width:
            return None  # a later step
        self._cut = cut.followed_by(FRAME)
        output["hidden_states"] = (cut.widened(states[0]), *states[1:-1], cut.widened(states[-1]))
        return output

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        arguments = by_name(module, args, kwargs)
        cache = arguments.get("past_key_values")
        embeds, cached = arguments.get("inputs_embeds"), cached_length(cache)
        known = recall(cache, len(embeds)) if cached and embeds is not None else None
        if known is not None:
            return (), self._go_on(known, arguments, cached)
        if not cached:
            forget(cache)
        cut, self._cut = self._cut, None
        if cut is None or embeds is None or embeds.shape[:2] != cut.kept.shape:
            return None
        handed = positions_handed(arguments.get("position_ids"), *embeds.shape[:2])
        keep = (cut.kept | ~cut.was_real).flatten().to(embeds.device)
        everywhere = torch.ones_like(cut.kept)  # this cache is never cropped
        shorter, self._unnoted = shortened(arguments, cut, Selection(keep), handed, everywhere)
        return (), shorter

    def _go_on(self, known: CachedPrompt, arguments: dict[str, Any], cached: int) -> dict[str, Any]:
        """The talker counts positions from its cache, which is shorter than the prompt was."""
        embeds: Tensor = arguments["inputs_embeds"]
        return repaired(known, {**arguments, "position_ids": known.positions(cached, embeds.shape[1])})

    def _leave(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:  # noqa: ARG002
        fresh, self._unnoted = self._unnoted, None
        cache = kwargs.get("past_key_values")
        cache = getattr(output, "past_key_values", None) if cache is None else cache
        if fresh is not None and cache is not None:
            note(cache, fresh)
