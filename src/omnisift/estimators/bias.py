"""A soft attention bias that hardens while training: all tokens stay in the graph, most of them ever less visible."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.estimators.base import Choice, Estimator, hardened, soft_bias


class Bias(Estimator):
    """Each token is seen through ``m = sigmoid((logit - threshold) / T)``; ``log m`` is added to its attention logits.

    The threshold lies midway between the last logit that would stay and the first that would go, so that only
    differences count, and ``T`` falls from 1 to 0.05. The gradient is exact for the soft prompt and reaches every
    token, kept or not; as ``T`` falls the soft prompt becomes the hard one, and the gradient settles on the tokens at
    the threshold.
    The prompt keeps its full length in these steps, and kernels that take no additive mask can't run it.
    """

    name: ClassVar[str] = "bias"
    gradient: ClassVar[str] = "exact for tokens faded by attention bias, which hardens"

    def choose(self, logits: Tensor, count: Tensor, valid: Tensor | None = None) -> Choice:
        """Everything stays, faded."""
        real = torch.ones_like(logits, dtype=torch.bool) if valid is None else valid
        mask = torch.sigmoid((logits - _threshold(logits, count, real)) / hardened(self.progress, 1.0, 0.05))
        some = (count > 0)[:, None]
        return Choice(real, bias=soft_bias(torch.where(some, mask, torch.zeros_like(mask))))


def _threshold(logits: Tensor, count: Tensor, real: Tensor) -> Tensor:
    """[G, 1]: midway between the two neighbours in order; below all where all stay."""
    ordered = logits.masked_fill(~real, -torch.inf).sort(dim=1, descending=True, stable=True).values
    last = ordered.gather(1, (count[:, None] - 1).clamp(min=0))
    next_ = ordered.gather(1, count[:, None].clamp(max=logits.shape[1] - 1))
    all_stay = count >= real.sum(dim=1)
    next_ = torch.where(all_stay[:, None] | torch.isinf(next_), last - 20.0, next_)
    return (last + next_) / 2
