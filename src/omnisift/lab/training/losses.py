"""Losses of nano's language model: the answers, and five auxiliary losses ("hints") that speed up learning.

Hints use the world's ground truth; none of their heads is saved. Without them the same model guesses among the objects
of a clip for many thousand steps (docs/nano.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from omnisift.lab.training.encoder_training import color_and_form, corner_of, title_of
from omnisift.lab.training.forward import MIDDLE, KeptTokens, PackedOutput
from omnisift.lab.training.nano_model import language_model_of
from omnisift.lab.training.packed import CAPTION, END
from omnisift.models.prompt_cut import IGNORE_INDEX
from omnisift.world import COLOR_NAMES, PLACES, SHAPES, SOUNDS, WORDS

POINTER_HEAD = 0
"""Query head of layer ``MIDDLE`` that the pointer loss trains; the selector's teacher leaves it out."""


@dataclass(frozen=True)
class LossWeights:
    """Weight of each part of the loss; the answers have 1."""

    caption: float = 0.5
    end: float = 0.1
    visible: float = 0.3
    """Audio tokens predict the colour and form that are on screen: the first hop of questions that bind sound to
    video."""
    lens: float = 0.2
    """After two layers, object and sound tokens are nearest to the embedding of the word that names them."""
    pointer: float = 0.6
    """One attention head attends from where the answer begins to the tokens that hold it."""
    argument: float = 0.5
    """After two layers, the position where the answer begins predicts the word that the question is about."""


class Hints(nn.Module):
    """Modules of the auxiliary losses: two linear heads, and the ids of the words that name things."""

    colors: Tensor
    forms: Tensor
    sounds: Tensor
    places: Tensor
    words: Tensor

    def __init__(self, width: int, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        self.color, self.form = nn.Linear(width, len(COLOR_NAMES) + 1), nn.Linear(width, len(SHAPES) + 1)
        # Words that are written or spoken: only the vocabulary of the wide family has them.
        words = [word for word in WORDS if word in tokenizer.get_vocab()]
        kinds = {"colors": COLOR_NAMES, "forms": SHAPES, "sounds": (*SOUNDS, *words), "places": PLACES, "words": words}
        for name, listed in kinds.items():
            ids = torch.tensor(tokenizer.convert_tokens_to_ids(list(listed)), dtype=torch.long)
            self.register_buffer(name, ids, persistent=False)


def answer_losses(model: Any, out: PackedOutput, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Cross-entropy of answers, of words of captions, and of the ends of turns, by name."""
    hidden, labels = out.last[:, out.prefix :], batch["labels"]
    return {name: F.cross_entropy(model.lm_head(hidden[where]), labels[where]) for name, where in answer_parts(batch)}


def answer_parts(batch: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, places [B, T] bool) of each part of the answers that the batch has."""
    labels, kind = batch["labels"], batch["kind"]
    for name, where in (("answer", kind < CAPTION), ("caption", kind == CAPTION), ("end", kind == END)):
        where = where & (labels != IGNORE_INDEX)
        if bool(where.any()):
            yield name, where


def hint_losses(
    model: Any, hints: Hints, out: PackedOutput, batch: dict[str, Tensor], kept: KeptTokens
) -> dict[str, Tensor]:
    """The five auxiliary losses, on the kept tokens, by name."""
    losses = _token_losses(model, hints, out, batch, kept)
    losses["pointer"] = _pointer(model, out, batch, kept)
    asked = batch["argument"] != IGNORE_INDEX
    hidden = language_model_of(model).norm(out.middle[:, out.prefix :][asked])
    losses["argument"] = F.cross_entropy(model.lm_head(hidden), batch["argument"][asked])
    return losses


def _token_losses(
    model: Any, hints: Hints, out: PackedOutput, batch: dict[str, Tensor], kept: KeptTokens
) -> dict[str, Tensor]:
    norm, words = language_model_of(model).norm, model.lm_head.weight
    video, audio = _pick(out.middle, out.video_at), _pick(out.middle, out.audio_at)
    video_class = batch["video_class"].gather(1, kept.video).flatten()
    sound_class = batch["audio_class"].gather(1, kept.audio).flatten()
    color_now, form_now = color_and_form(batch["visible"].gather(1, kept.audio).flatten())
    visible = audio.new_zeros(())
    if len(audio):  # a clip without audio has no such token
        visible = F.cross_entropy(hints.color(audio), color_now) + F.cross_entropy(hints.form(audio), form_now)

    def near(hidden: Tensor, ids: Tensor, target: Tensor, where: Tensor) -> Tensor:
        if not bool(where.any()):
            return hidden.new_zeros(())
        return F.cross_entropy(norm(hidden[where]) @ words[ids].T, target[where])

    color, form = color_and_form(video_class)
    corner, title = corner_of(kept.video.flatten(), int(batch["side"])), title_of(video_class)
    lens = (
        near(video, hints.colors, color - 1, color > 0)
        + near(video, hints.forms, form - 1, form > 0)
        + near(video, hints.places, corner, color > 0)
        + near(audio, hints.colors, color_now - 1, color_now > 0)
        + near(audio, hints.forms, form_now - 1, form_now > 0)
        + near(audio, hints.sounds, sound_class - 1, sound_class > 0)
        + near(video, hints.words, title - 1, title > 0)
    )
    return {"visible": visible, "lens": lens}


def _pick(hidden: Tensor, index: Tensor) -> Tensor:
    return hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[-1])).flatten(0, 1)


def _pointer(model: Any, out: PackedOutput, batch: dict[str, Tensor], kept: KeptTokens) -> Tensor:
    """Cross-entropy of one head's attention to the kept tokens that hold the answer; softmax over the prefix."""
    language = language_model_of(model)
    attention, x = language.layers[MIDDLE].self_attn, language.layers[MIDDLE].input_layernorm(out.middle)
    # Questions with evidence, and which kept tokens hold it.
    rows, due = torch.nonzero(batch["pointer"].any(-1), as_tuple=True)
    target = batch["pointer"][rows, due].gather(
        1, torch.cat([kept.video, batch["video"].shape[1] + kept.audio], dim=1)[rows]
    )
    has_kept = target.any(-1)
    rows, due, target = rows[has_kept], due[has_kept], target[has_kept]
    if not len(rows):
        return torch.zeros(())
    cos, sin = language.rotary_emb(x, out.position)
    at = out.prefix + due
    # One head: queries where answers begin, keys of the prefix.
    query = _head(attention, "q", POINTER_HEAD, x[rows, at], cos[rows, at], sin[rows, at])
    keys = _head(attention, "k", 0, x[:, : out.prefix], cos[:, : out.prefix], sin[:, : out.prefix])
    logits = (query[:, None] @ keys[rows].transpose(1, 2)).squeeze(1) * attention.scaling
    # Probability on the evidence.
    logits = logits - logits.logsumexp(-1, keepdim=True)
    logits = logits.gather(1, torch.cat([out.video_at, out.audio_at], dim=1)[rows])
    loss: Tensor = -logits.masked_fill(~target, -1e9).logsumexp(-1).mean()
    return loss


def _head(attention: Any, kind: str, head: int, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """One head's rotated query (``q``) or key (``k``)."""
    projection: nn.Linear = getattr(attention, f"{kind}_proj")
    size = attention.head_dim
    rows = slice(head * size, (head + 1) * size)
    y = F.linear(x, projection.weight[rows], None if projection.bias is None else projection.bias[rows])
    if hasattr(attention, f"{kind}_norm"):
        y = getattr(attention, f"{kind}_norm")(y)
    half = size // 2
    turned: Tensor = y * cos + torch.cat([-y[..., half:], y[..., :half]], dim=-1) * sin
    return turned
