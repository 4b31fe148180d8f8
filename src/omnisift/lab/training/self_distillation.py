"""Self-distillation of packed prompts: a frozen model answers with all tokens, and its distributions are learned."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.lab.training.forward import PackedOutput, forward_packed
from omnisift.lab.training.losses import answer_parts
from omnisift.lab.training.packed import PromptLayout
from omnisift.models.prompt_cut import IGNORE_INDEX


@torch.no_grad()
def own_answers(teacher: Any, layout: PromptLayout, batch: dict[str, Tensor], end: int) -> dict[str, Tensor]:
    """Replace the answers of a batch by the greedy answers of a model that sees all tokens.

    Of each answer only the number of tokens stays, as the longest length of the new one.

    Args:
        teacher: the model.
        layout: where a clip's tokens are in the prompt.
        batch: see `make_batch`.
        end: the token that ends an answer.

    Returns:
        ``tail`` and ``labels`` with the new answers; ``teacher`` [B, T, V], the teacher's log-probabilities.
    """
    tail, learned = batch["tail"], batch["labels"] != IGNORE_INDEX
    # Where a token is part of an answer and is read again: the label before it.
    follows = F.pad(learned[:, 1:] & learned[:, :-1], (1, 0))
    scores = torch.zeros(*tail.shape, teacher.lm_head.out_features)
    changed = torch.arange(len(tail))
    while len(changed):
        rows = {name: batch[name][changed] for name in ("video", "audio", "segment", "offset")}
        out = forward_packed(teacher, layout, {**rows, "tail": tail[changed]})
        scores[changed] = teacher.lm_head(out.last[:, out.prefix :])
        answered = torch.where(follows, scores.argmax(dim=-1).roll(1, dims=1), tail)
        # The first token of an answer depends on the question alone, so each pass makes one more token final.
        changed, tail = torch.nonzero((answered != tail).any(dim=1)).flatten(), answered
    labels = scores.argmax(dim=-1)
    # Nothing is learned behind the end of an answer: count ends before each token, from where its answer begins.
    ends = (learned & (labels == end)).long()
    before = ends.cumsum(dim=1) - ends
    begun = torch.where(learned & ~follows, before, 0).cummax(dim=1).values
    labels = torch.where(learned & (before == begun), labels, IGNORE_INDEX)
    return {"tail": tail, "labels": labels, "teacher": scores.log_softmax(dim=-1)}


def distillation_losses(model: Any, out: PackedOutput, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """KL(teacher || model) at the teacher's answers, by the names of `answer_losses`."""
    hidden, losses = out.last[:, out.prefix :], {}
    for name, where in answer_parts(batch):
        scores = model.lm_head(hidden[where]).log_softmax(dim=-1)
        losses[name] = F.kl_div(scores, batch["teacher"][where], reduction="batchmean", log_target=True)
    return losses
