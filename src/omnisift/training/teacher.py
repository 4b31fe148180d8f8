"""The selector's teacher: which sounds the full-token model itself looks at while it reads questions. No labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from omnisift.training.forward import MIDDLE, run
from omnisift.training.losses import POINTER_HEAD
from omnisift.training.packed import Layout


@contextmanager
def eager_attention(model: Any) -> Iterator[None]:
    """Attention that returns its weights, for the time of the block."""
    language = model.model.language_model
    before = language.config._attn_implementation
    language.set_attn_implementation("eager")
    try:
        yield
    finally:
        language.set_attn_implementation(before)


@torch.no_grad()
def looked_at(model: Any, layout: Layout, batch: dict[str, Tensor], with_pointer_head: bool = False) -> Tensor:
    """[B, 150] in 0..1: attention from question words to sound tokens.

    Averaged over words, heads and layers; each question's largest is 1; then the largest over a clip's questions.

    The one head that was trained to point at evidence is left out (unless ``with_pointer_head``), so that what is
    taught is what the model found by itself.
    """
    out = run(model, layout, batch, attentions=True)
    assert out.attentions is not None
    total, heads = torch.zeros(()), 0
    for number, weights in enumerate(out.attentions):
        chosen = [h for h in range(weights.shape[1]) if with_pointer_head or (number, h) != (MIDDLE, POINTER_HEAD)]
        total = total + weights[:, chosen, out.prefix :].sum(1)[..., layout.audio]
        heads += len(chosen)
    return _per_clip(total / heads, batch["segment"])


def _per_clip(attention: Tensor, segment: Tensor) -> Tensor:
    """[B, T, 150] from every word -> [B, 150]."""
    member = torch.nn.functional.one_hot(segment)[..., 1:].float()  # [B, T, questions]; 0 is padding
    words = member.sum(1).clamp(min=1)
    by_question = torch.einsum("btq,bta->bqa", member, attention) / words[..., None]
    by_question = by_question / by_question.amax(-1, keepdim=True).clamp(min=1e-6)
    return (by_question * (member.sum(1) > 0)[..., None]).amax(1).clamp(0, 1)
