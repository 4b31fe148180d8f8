"""The full-token model's attention while it reads questions, as a target for the selector; no labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from omnisift.lab.training.forward import MIDDLE, forward_packed
from omnisift.lab.training.losses import POINTER_HEAD
from omnisift.lab.training.nano_model import language_model_of
from omnisift.lab.training.packed import CAPTION, PromptLayout
from omnisift.models.prompt_cut import IGNORE_INDEX


@contextmanager
def eager_attention(model: Any) -> Iterator[None]:
    """Make the model return attention weights inside the ``with`` block."""
    language = language_model_of(model)
    before = language.config._attn_implementation
    language.set_attn_implementation("eager")
    try:
        yield
    finally:
        language.set_attn_implementation(before)


@torch.no_grad()
def attention_from_answers(
    model: Any,
    layout: PromptLayout,
    batch: dict[str, Tensor],
    with_pointer_head: bool = False,
    keys: Tensor | None = None,
) -> Tensor:
    """Attention to audio tokens from the positions where answers begin.

    Averaged over heads and layers, then the maximum over a clip's questions, scaled to a maximum of 1 per clip. Scaling
    per question instead would raise questions whose attention is spread evenly.

    Args:
        model: nano, inside `eager_attention`.
        layout: where the clip's tokens are in the prompt.
        batch: packed questions.
        with_pointer_head: include the head that the pointer loss trained to attend to evidence; without it the target
            is what the model learned by itself.
        keys: positions in the prompt; None means the audio tokens.

    Returns:
        [B, 150] float32 in 0..1, or one column per position in ``keys``.
    """
    out = forward_packed(model, layout, batch, attentions=True)
    if out.attentions is None:
        raise RuntimeError("the model returned no attention weights; use eager_attention")
    total, heads = torch.zeros(()), 0
    # Sum the attention over heads and layers.
    for number, weights in enumerate(out.attentions):
        chosen = [h for h in range(weights.shape[1]) if with_pointer_head or (number, h) != (MIDDLE, POINTER_HEAD)]
        total = total + weights[:, chosen, out.prefix :].sum(1)[..., layout.audio if keys is None else keys]
        heads += len(chosen)
    # Keep the rows where an answer begins, and take the maximum over the questions.
    answers = (batch["kind"] < CAPTION) & (batch["labels"] != IGNORE_INDEX)
    best = (total / heads).masked_fill(~answers[..., None], 0.0).amax(1)
    return best / best.amax(-1, keepdim=True).clamp(min=1e-6)
