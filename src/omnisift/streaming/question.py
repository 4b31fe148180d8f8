"""A question about a stream as a prompt of one ``generate`` call, whose beginning is in the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from omnisift.models import Compression
from omnisift.models.media_encoding import MediaEmbeds
from omnisift.models.short_prompt import ShortPrompt
from omnisift.pipeline.encoded_clip import PromptRow
from omnisift.pipeline.held_prompt import HeldPrompt, HeldPrompts
from omnisift.streaming.cache import StreamCache
from omnisift.streaming.layout import StreamLayout
from omnisift.tokens import Modality

_KEY = ("stream",)


@dataclass(frozen=True)
class _Holder:
    """Stands for the encoded clip of a prompt, of which it has what is held."""

    held: HeldPrompts


def question_row(layout: StreamLayout, cache: StreamCache, ids: Tensor, positions: Tensor) -> PromptRow:
    """A prompt whose beginning is in a cache: cached tokens look like text to the host, which reads the rest alone."""
    cached = len(cache)
    position_ids = torch.cat([torch.zeros(cached, dtype=torch.int64), positions])
    full = torch.cat([ids[:1].expand(cached), ids]).unsqueeze(0)
    is_text = torch.full_like(full, int(Modality.TEXT), dtype=torch.int8)
    short = ShortPrompt(
        media=MediaEmbeds(cache.no_embeds),
        modality=is_text[0],
        position_ids=position_ids.expand(3, 1, -1),
        next_position=positions[-1:] + 1,
        compression=Compression(is_text, torch.ones_like(full, dtype=torch.bool)),
        encoded_tokens=0,
    )
    inputs: dict[str, Any] = {"input_ids": full, "attention_mask": torch.ones_like(full)}
    if layout.hears:
        inputs["use_audio_in_video"] = False
    held = HeldPrompts(cache.nbytes)
    held.add(_KEY, HeldPrompt(cache.prefix(), None, None))
    clip = cast("Any", _Holder(held))
    return PromptRow(layout.media, inputs, clip, cached, _KEY, short=short)
