"""Accuracy by question type on cached features: quick, for training. The product's numbers come from `evaluation`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from omnisift.training.feature_cache import FeatureCache
from omnisift.training.forward import run
from omnisift.training.packed import CAPTION, IGNORE, Layout, Writer, make_batch
from omnisift.training.selections import Select
from omnisift.world import QUESTION_TYPES


@torch.no_grad()
def accuracies(
    model: Any,
    layout: Layout,
    writer: Writer,
    bank: FeatureCache,
    select: Select | None = None,
    clips: int = 100,
    seed: int = 0,
    types: Sequence[str] = QUESTION_TYPES,
) -> dict[str, float]:
    """Share of right answers by question type, and their plain mean as ``mean``; about four questions of each type a
    clip.

    The answer is the most likely of all words, not the best of a list.
    """
    rng = np.random.default_rng(seed)
    right, total = np.zeros(len(QUESTION_TYPES)), np.zeros(len(QUESTION_TYPES))
    training = model.training
    model.eval()
    for first in range(0, min(clips, len(bank)), 20):
        chosen = list(range(first, min(clips, len(bank), first + 20)))
        batch = make_batch(bank, chosen, writer, 4 * len(types), rng, types=types)
        out = run(model, layout, batch, select(batch["video"], batch["audio"]) if select else None)
        due = (batch["kind"] < CAPTION) & (batch["labels"] != IGNORE)
        hit = model.lm_head(out.last[:, out.prefix :][due]).argmax(-1) == batch["labels"][due]
        kinds = batch["kind"][due].numpy()
        right += np.bincount(kinds, hit.numpy(), len(QUESTION_TYPES))
        total += np.bincount(kinds, minlength=len(QUESTION_TYPES))
    model.train(training)
    counts = zip(QUESTION_TYPES, right, total, strict=True)
    result = {name: float(r / max(t, 1)) for name, r, t in counts if name in types}
    return result | {"mean": float(np.mean(list(result.values())))}


def in_words(result: dict[str, float]) -> str:
    """One line, in percent."""
    return " ".join(f"{name}={100 * value:.1f}" for name, value in result.items())
