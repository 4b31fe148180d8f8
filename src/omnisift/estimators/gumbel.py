"""Gumbel top-k, relaxed: a soft subset drawn with noise (Xie and Ermon, arXiv 1901.10517)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.estimators.base import Choice, Estimator, hardened, soft_bias


class Gumbel(Estimator):
    """Gumbel noise on the logits, then ``count`` softmaxes in turn, each after taking out what those before took.

    Their sum is a soft subset in [0, 1] of ``count`` tokens; it enters as attention bias (`Bias`). The gradient is
    exact for this draw of the relaxed subset, and the noise explores. The temperature falls from 1 to 0.2.
    """

    name: ClassVar[str] = "gumbel"
    gradient: ClassVar[str] = "exact for a soft subset drawn with Gumbel noise"

    def choose(self, logits: Tensor, count: Tensor, valid: Tensor | None = None) -> Choice:
        """Everything stays, as visible as the draw says."""
        real = torch.ones_like(logits, dtype=torch.bool) if valid is None else valid
        noise = -torch.log(-torch.log(torch.rand_like(logits).clamp(1e-9, 1 - 1e-7)))
        mask = relaxed_subset(logits + noise, count, real, hardened(self.progress, 1.0, 0.2))
        return Choice(real, bias=soft_bias(mask))


def relaxed_subset(keys: Tensor, count: Tensor, real: Tensor, temperature: float) -> Tensor:
    """[G, A] in [0, 1], rows sum to ``count`` [G]: the soft top-k of ``keys`` [G, A]."""
    never = torch.finfo(keys.dtype).min / 4
    keys = keys.masked_fill(~real, never)
    total = torch.zeros_like(keys)
    for turn in range(int(count.max())):
        taken = torch.softmax(keys / temperature, dim=1)
        total = total + taken * (count > turn)[:, None]
        keys = keys + torch.log((1 - taken).clamp(min=1e-6))
    return total.clamp(max=1.0)
