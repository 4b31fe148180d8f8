"""The selector's teacher: what the full-token model itself looks at while it reads questions. No labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from omnisift.training.forward import MIDDLE, run
from omnisift.training.host import language_model_of
from omnisift.training.losses import POINTER_HEAD
from omnisift.training.packed import CAPTION, IGNORE, Layout


@contextmanager
def eager_attention(model: Any) -> Iterator[None]:
    """Attention that returns its weights, for the time of the block."""
    language = language_model_of(model)
    before = language.config._attn_implementation
    language.set_attn_implementation("eager")
    try:
        yield
    finally:
        language.set_attn_implementation(before)


@torch.no_grad()
def looked_at(
    model: Any,
    layout: Layout,
    batch: dict[str, Tensor],
    with_pointer_head: bool = False,
    places: Tensor | None = None,
) -> Tensor:
    """[B, 150] in 0..1: attention to the sound tokens (or to ``places`` of the prompt) from where each answer is due.

    Averaged over all heads and layers, then the largest over the clip's questions, scaled to 1 per clip. Scaling
    each question by itself instead would lift those that look at nothing in particular. The one head that was trained
    to point at evidence is left out (unless ``with_pointer_head``), so that what is taught is what the model found by
    itself.
    """
    out = run(model, layout, batch, attentions=True)
    if out.attentions is None:
        raise RuntimeError("the model returned no attention weights; use eager_attention")
    total, heads = torch.zeros(()), 0
    for number, weights in enumerate(out.attentions):
        chosen = [h for h in range(weights.shape[1]) if with_pointer_head or (number, h) != (MIDDLE, POINTER_HEAD)]
        total = total + weights[:, chosen, out.prefix :].sum(1)[..., layout.audio if places is None else places]
        heads += len(chosen)
    due = (batch["kind"] < CAPTION) & (batch["labels"] != IGNORE)
    best = (total / heads).masked_fill(~due[..., None], 0.0).amax(1)
    return best / best.amax(-1, keepdim=True).clamp(min=1e-6)
