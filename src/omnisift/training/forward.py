"""One pass of nano's language model over packed prompts, with all clip tokens or only those a selection kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnisift.training.host import language_model_of
from omnisift.training.packed import Layout

MIDDLE = 2
"""Auxiliary losses look at the hidden states after this many layers."""


@dataclass(frozen=True)
class Kept:
    """Which clip tokens of each row stay: the same numbers in every row of a batch."""

    video: Tensor
    """[B, KV] int64, rising: places among the 96 video tokens."""
    audio: Tensor
    """[B, KA] int64, rising: places among the 150 audio tokens."""


@dataclass(frozen=True)
class Pass:
    """Hidden states of a packed prompt; ``P`` kept prefix tokens, then the tail of ``T``."""

    last: Tensor
    """[B, P + T, D] after the final norm."""
    middle: Tensor
    """[B, P + T, D] after two layers, not normed."""
    position: Tensor
    """[3, B, P + T]."""
    prefix: int
    """P."""
    video_at: Tensor
    """[B, KV] places of the kept video tokens in the prefix."""
    audio_at: Tensor
    """[B, KA]."""
    attentions: tuple[Tensor, ...] | None = None
    """Per layer [B, heads, P + T, P + T], where they were asked for."""


def everything(batch: dict[str, Tensor]) -> Kept:
    """Keep all tokens."""
    rows = len(batch["video"])
    return Kept(
        torch.arange(batch["video"].shape[1]).expand(rows, -1), torch.arange(batch["audio"].shape[1]).expand(rows, -1)
    )


def run(
    model: Any,
    layout: Layout,
    batch: dict[str, Tensor],
    kept: Kept | None = None,
    attentions: bool = False,
    bias: Tensor | None = None,
) -> Pass:
    """Forward ``batch`` (see `make_batch`). ``attentions`` needs a model in eager attention; ``bias`` [B, KA] is added
    to every attention logit that looks at a kept audio token.

    Where the batch holds ``places`` [B, P] (rising places of the prefix), these stay, whatever ``kept`` says.
    """
    language = language_model_of(model)
    rows, width = len(batch["video"]), batch["video"].shape[-1]
    embeds = language.embed_tokens(layout.ids)[None].repeat(rows, 1, 1)
    embeds = embeds.index_copy(1, layout.video, batch["video"]).index_copy(1, layout.audio, batch["audio"])
    kept = everything(batch) if kept is None else kept
    places = torch.cat([layout.other.expand(rows, -1), layout.video[kept.video], layout.audio[kept.audio]], dim=1)
    places, order = places.sort(dim=1)
    where = order.argsort(dim=1)  # where each of (other, video, audio) went
    places = batch.get("places", places)
    first_audio = len(layout.other) + kept.video.shape[1]
    prefix = places.shape[1]
    inputs = torch.cat(
        [embeds.gather(1, places[..., None].expand(-1, -1, width)), language.embed_tokens(batch["tail"])], dim=1
    )
    tail_position = (layout.after + batch["offset"]).expand(3, -1, -1)
    position = torch.cat([layout.position[:, places], tail_position], dim=2)
    mask = _mask(batch["segment"], prefix, attentions or bias is not None)
    if bias is not None:
        whole = bias.new_zeros(rows, mask.shape[-1]).scatter(1, where[:, first_audio:], bias)
        mask = mask + whole[:, None, None, :]
    output = language(
        inputs_embeds=inputs,
        attention_mask={"full_attention": mask},
        position_ids=position,
        use_cache=False,
        output_hidden_states=True,
        output_attentions=attentions,
    )
    return Pass(
        output.last_hidden_state,
        output.hidden_states[MIDDLE],
        position,
        prefix,
        where[:, len(layout.other) : first_audio],
        where[:, first_audio:],
        output.attentions if attentions else None,
    )


def _mask(segment: Tensor, prefix: int, additive: bool) -> Tensor:
    """[B, 1, P + T, P + T]: the clip is causal; a segment sees the clip and its own past."""
    whole = torch.cat([segment.new_zeros(len(segment), prefix), segment], dim=1)
    key_is_clip = torch.arange(whole.shape[1]) < prefix
    same = (whole[:, :, None] == whole[:, None, :]) | key_is_clip
    mask = (same & torch.ones_like(same[0]).tril())[:, None]
    return torch.where(mask, 0.0, torch.finfo(torch.float32).min) if additive else mask
