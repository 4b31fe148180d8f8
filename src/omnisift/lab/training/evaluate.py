"""Accuracy by question type on cached features, for use during training; benchmarks use `omnisift.evaluation`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnisift.lab.training.feature_cache import FeatureCache
from omnisift.lab.training.forward import forward_packed
from omnisift.lab.training.packed import CAPTION, PromptLayout, Writer, make_batch
from omnisift.lab.training.selections import Select
from omnisift.models.prompt_cut import IGNORE_INDEX
from omnisift.world import QUESTION_TYPES, WIDE_TYPES


@torch.no_grad()
def accuracies(
    model: Any,
    layout: PromptLayout,
    writer: Writer,
    features: FeatureCache,
    select: Select | None = None,
    clips: int = 100,
    seed: int = 0,
    types: Sequence[str] = QUESTION_TYPES,
    prepare: Callable[[dict[str, Tensor], list[int]], dict[str, Tensor]] | None = None,
) -> dict[str, float]:
    """Measure how often the most likely word is the right answer.

    All words compete, not a list of answers.

    Args:
        model: a thinker.
        layout: where a clip's tokens are in the prompt.
        writer: makes token ids of questions.
        features: the clips.
        select: which tokens stay; None keeps all.
        clips: number of clips, from the first.
        seed: seed of the questions.
        types: question types; about four questions of each per clip.
        prepare: (batch, clips) -> the batch as the model reads it, for example with lines; None leaves it.

    Returns:
        Question type -> accuracy in 0..1, and their mean as ``mean``.
    """
    rng = np.random.default_rng(seed)
    right, total = np.zeros(len(WIDE_TYPES)), np.zeros(len(WIDE_TYPES))
    training = model.training
    model.eval()
    for first in range(0, min(clips, len(features)), 20):
        chosen = list(range(first, min(clips, len(features), first + 20)))
        batch = make_batch(features, chosen, writer, 4 * len(types), rng, types=types)
        batch = batch if prepare is None else prepare(batch, chosen)
        out = forward_packed(model, layout, batch, select(batch["video"], batch["audio"]) if select else None)
        due = (batch["kind"] < CAPTION) & (batch["labels"] != IGNORE_INDEX)
        hit = model.lm_head(out.last[:, out.prefix :][due]).argmax(-1) == batch["labels"][due]
        kinds = batch["kind"][due].numpy()
        right += np.bincount(kinds, hit.numpy(), len(WIDE_TYPES))
        total += np.bincount(kinds, minlength=len(WIDE_TYPES))
    model.train(training)
    counts = zip(WIDE_TYPES, right, total, strict=True)
    result = {name: float(r / max(t, 1)) for name, r, t in counts if name in types}
    return result | {"mean": float(np.mean(list(result.values())))}


def format_accuracies(result: dict[str, float]) -> str:
    """All values in one line, in percent."""
    return " ".join(f"{name}={100 * value:.1f}" for name, value in result.items())
