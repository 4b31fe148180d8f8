"""REINFORCE: sample choices and make those with a lower loss more likely (Kool et al., 2019)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.estimators.base import Estimator
from omnisift.ops.selection_builder import Choice
from omnisift.ops.topk import row_topk


class Reinforce(Estimator):
    """Tokens are sampled without replacement (Plackett-Luce, by Gumbel top-k), which gives a hard prompt.

    The gradient is ``(L - baseline) d log p(choice)``, unbiased for the expected loss of the *hard* prompt, for kept
    and dropped tokens alike; none passes through the language model. The baseline of one sample is the mean loss of
    the step's other samples (leave one out), so it stays unbiased. It is noisy, hence several ``samples``.
    """

    name: ClassVar[str] = "reinforce"
    gradient: ClassVar[str] = "unbiased for the expected loss of hard prompts; noisy"
    samples: ClassVar[int] = 4

    def choose(self, logits: Tensor, count: Tensor, valid: Tensor | None = None) -> Choice:
        """Sample one choice, with its log-probability. See `Estimator.choose`."""
        noise = -torch.log(-torch.log(torch.rand_like(logits).clamp(1e-9, 1 - 1e-7)))
        keys = logits.detach() + noise
        keep = row_topk(keys, count, valid)
        return Choice(keep, log_prob=log_probability(logits, keys, keep, valid))


def log_probability(logits: Tensor, keys: Tensor, keep: Tensor, valid: Tensor | None = None) -> Tensor:
    """Compute the log-probability of sampling the kept tokens in the order of their keys.

    Args:
        logits: [G, A] float with a gradient.
        keys: [G, A] float, the logits with noise.
        keep: [G, A] bool, the sampled tokens.
        valid: [G, A] bool, False on padding; None if nothing is padded.

    Returns:
        [G] with a gradient.
    """
    lowest = torch.finfo(logits.dtype).min / 4
    order = keys.masked_fill(~keep, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    score = logits if valid is None else logits.masked_fill(~valid, lowest)
    score, sampled = score.gather(1, order), keep.gather(1, order)
    # The denominator of each draw covers the tokens that remained: log-sum-exp from the end of the order.
    remaining = torch.logcumsumexp(score.flip(1), dim=1).flip(1)
    return ((score - remaining) * sampled).sum(dim=1)


def leave_one_out(losses: Tensor) -> Tensor:
    """Subtract from each loss the mean of the others.

    Args:
        losses: [S, ...], of ``S`` samples, at least 2.

    Returns:
        [S, ...].
    """
    others = (losses.sum(dim=0, keepdim=True) - losses) / (len(losses) - 1)
    return losses - others
