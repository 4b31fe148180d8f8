"""Forward pass of nano's language model over packed prompts, with all clip tokens or the selected ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnisift.errors import UsageError
from omnisift.lab.training.clip_lines import inserted
from omnisift.lab.training.nano_model import language_model_of
from omnisift.lab.training.packed import PromptLayout

MIDDLE = 2
"""Auxiliary losses read the hidden states after this many layers."""


@dataclass(frozen=True)
class KeptTokens:
    """The clip tokens of each row that stay; all rows of a batch keep equal numbers."""

    video: Tensor
    """[B, KV] int64, ascending: indices among the 96 video tokens."""
    audio: Tensor
    """[B, KA] int64, ascending: indices among the 150 audio tokens."""


@dataclass(frozen=True)
class PackedOutput:
    """Hidden states of a packed prompt: ``P`` kept prefix tokens, then the tail of ``T``."""

    last: Tensor
    """[B, P + T, D] after the final norm."""
    middle: Tensor
    """[B, P + T, D] after two layers, before any norm."""
    position: Tensor
    """[3, B, P + T] rotary ids."""
    prefix: int
    """P."""
    video_at: Tensor
    """[B, KV] positions of the kept video tokens in the prefix."""
    audio_at: Tensor
    """[B, KA] positions of the kept audio tokens."""
    attentions: tuple[Tensor, ...] | None = None
    """Per layer [B, heads, P + T, P + T], where requested."""


def keep_all(batch: dict[str, Tensor]) -> KeptTokens:
    """The selection that keeps every token."""
    rows = len(batch["video"])
    return KeptTokens(
        torch.arange(batch["video"].shape[1]).expand(rows, -1), torch.arange(batch["audio"].shape[1]).expand(rows, -1)
    )


def forward_packed(
    model: Any,
    layout: PromptLayout,
    batch: dict[str, Tensor],
    kept: KeptTokens | None = None,
    attentions: bool = False,
    bias: Tensor | None = None,
) -> PackedOutput:
    """Run the language model on a packed batch.

    Args:
        model: a thinker.
        layout: where a clip's tokens are in the prompt.
        batch: see `make_batch`. With ``places`` [B, P], ascending positions of the prefix, these stay whatever ``kept``
            is. With the lines of `omnisift.lab.training.clip_lines.line_batch`, these are inserted, whatever is kept.
        kept: which clip tokens stay; None keeps all.
        attentions: return attention weights; the model must use eager attention.
        bias: [B, KA] added to every attention logit whose key is a kept audio token.
    """
    language = language_model_of(model)
    width = batch["audio"].shape[-1]
    # The prefix with the features of the clip, and the places of the kept tokens in it.
    embeds, deep = _full_prefix(language, layout, batch)
    kept = kept or keep_all(batch)
    own_places, where = _kept_places(layout, kept)
    kept_index = batch.get("places", own_places)
    first_audio = len(layout.other) + kept.video.shape[1]
    # Cut the prefix, insert lines and append the questions.
    clip, position = embeds.gather(1, kept_index[..., None].expand(-1, -1, width)), layout.position[:, kept_index]
    real, after = torch.ones_like(kept_index, dtype=torch.bool), torch.tensor(layout.after)
    if "line_ids" in batch:
        lines = language.embed_tokens(batch["line_ids"])
        clip, position, real, moved = inserted(clip, position, kept_index, batch, lines)
        where = where if "places" in batch else moved.gather(1, where)
        after = layout.after + batch["line_shift"][:, None]
    prefix = clip.shape[1]
    inputs = torch.cat([clip, language.embed_tokens(batch["tail"])], dim=1)
    # New tokens continue from the length of the full prefix.
    position = torch.cat([position, (after + batch["offset"]).expand(3, -1, -1)], dim=2)
    mask = _mask(batch["segment"], real, attentions or bias is not None)
    if bias is not None:
        key_bias = bias.new_zeros(len(mask), mask.shape[-1]).scatter(1, where[:, first_audio:], bias)
        mask = mask + key_bias[:, None, None, :]
    output = language(
        inputs_embeds=inputs,
        attention_mask=mask,
        position_ids=position,
        use_cache=False,
        output_hidden_states=True,
        output_attentions=attentions,
        **_deepstack(deep, layout, kept_index, inputs.shape[1]),
    )
    return PackedOutput(
        output.last_hidden_state,
        output.hidden_states[MIDDLE],
        position,
        prefix,
        where[:, len(layout.other) : first_audio],
        where[:, first_audio:],
        output.attentions if attentions else None,
    )


def _kept_places(layout: PromptLayout, kept: KeptTokens) -> tuple[Tensor, Tensor]:
    """[B, P] each: places of the kept tokens in order, and where each of (other, video, audio) went."""
    other = layout.other.expand(len(kept.video), -1)
    places, order = torch.cat([other, layout.video[kept.video], layout.audio[kept.audio]], dim=1).sort(dim=1)
    return places, order.argsort(dim=1)


def _full_prefix(language: Any, layout: PromptLayout, batch: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
    """([B, S, D], the prefix with the features of the clip; [B, V, D] for each level of deepstack)."""
    rows, width = len(batch["video"]), batch["audio"].shape[-1]
    video, *deep = torch.split(batch["video"], width, dim=-1)
    if "line_ids" in batch and deep:
        raise UsageError("lines need a host without deepstack, which counts the tokens of the clip alone")
    embeds = language.embed_tokens(layout.ids)[None].repeat(rows, 1, 1)
    return embeds.index_copy(1, layout.video, video).index_copy(1, layout.audio, batch["audio"]), deep


def _deepstack(deep: list[Tensor], layout: PromptLayout, kept_index: Tensor, length: int) -> dict[str, Any]:
    """Arguments of a language model that gets features of several vision layers, for the video tokens that stay.

    Args:
        deep: [B, V, D] for each level; none for a host without deepstack.
        layout: where a clip's tokens are in the prompt.
        kept_index: [B, P] int64: positions in the full prompt of the tokens that stay.
        length: of the packed prompt.
    """
    if not deep:
        return {}
    number = torch.full((len(layout.ids),), -1).index_copy(0, layout.video, torch.arange(len(layout.video)))[kept_index]
    marks = torch.zeros(len(kept_index), length, dtype=torch.bool)
    marks[:, : kept_index.shape[1]] = number >= 0
    row, place = torch.nonzero(number >= 0, as_tuple=True)
    return {
        "visual_pos_masks": marks,
        "deepstack_visual_embeds": [level[row, number[row, place]] for level in deep],
    }


def _mask(segment: Tensor, real: Tensor, additive: bool) -> Tensor:
    """[B, 1, P + T, P + T]: the clip is causal; a segment sees the clip and its own past; padding of the clip, where
    ``real`` [B, P] is False, is seen by padding alone."""
    segments = torch.cat([torch.where(real, 0, -1), segment], dim=1)
    key_is_clip = torch.cat([real, torch.zeros_like(segment, dtype=torch.bool)], dim=1)
    same = (segments[:, :, None] == segments[:, None, :]) | key_is_clip[:, None, :]
    mask = (same & torch.ones_like(same[0]).tril())[:, None]
    return torch.where(mask, 0.0, torch.finfo(torch.float32).min) if additive else mask
