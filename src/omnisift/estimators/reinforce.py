"""REINFORCE: draw whole choices, see what the loss says, make the better ones likelier (Kool et al., 2019)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.estimators.base import Choice, Estimator, highest


class Reinforce(Estimator):
    """Tokens are drawn one after another without replacement (Plackett-Luce), by Gumbel top-k: a hard prompt.

    The gradient is ``(L - baseline) d log p(choice)``, unbiased for the expected loss of the *hard* prompt, for kept
    and dropped tokens alike. No gradient passes through the language model. The baseline of one draw is the mean loss
    of the step's other draws (leave one out), which keeps it unbiased; it is noisy, so ``samples`` are drawn.
    """

    name: ClassVar[str] = "reinforce"
    gradient: ClassVar[str] = "unbiased for the expected loss of hard prompts; noisy"
    samples: ClassVar[int] = 4

    def choose(self, logits: Tensor, count: Tensor, valid: Tensor | None = None) -> Choice:
        """One draw, with its log-probability."""
        noise = -torch.log(-torch.log(torch.rand_like(logits).clamp(1e-9, 1 - 1e-7)))
        keys = logits.detach() + noise
        keep = highest(keys, count, valid)
        return Choice(keep, log_prob=log_probability(logits, keys, keep, valid))


def log_probability(logits: Tensor, keys: Tensor, keep: Tensor, valid: Tensor | None = None) -> Tensor:
    """[G]: log-probability of drawing the kept tokens in the order of their ``keys`` (all [G, A])."""
    never = torch.finfo(logits.dtype).min / 4
    order = keys.masked_fill(~keep, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    score = logits if valid is None else logits.masked_fill(~valid, never)
    score, drawn = score.gather(1, order), keep.gather(1, order)
    # Behind each draw lie the tokens that were still there: log-sum-exp from the end of the order.
    left = torch.logcumsumexp(score.flip(1), dim=1).flip(1)
    return ((score - left) * drawn).sum(dim=1)


def leave_one_out(losses: Tensor) -> Tensor:
    """[S, ...]: each of ``S`` losses less the mean of the others. ``S`` is at least 2."""
    others = (losses.sum(dim=0, keepdim=True) - losses) / (len(losses) - 1)
    return losses - others
