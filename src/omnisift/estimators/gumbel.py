"""Relaxed Gumbel top-k: a soft subset sampled with noise (Xie and Ermon, arXiv 1901.10517)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.estimators.base import Estimator, annealed, soft_bias
from omnisift.ops.selection_builder import Choice


class Gumbel(Estimator):
    """Gumbel noise on the logits, then ``count`` successive softmaxes, each without what the earlier ones took.

    Their sum is a soft subset in [0, 1] of ``count`` tokens, which becomes the attention bias (as in `Bias`). The
    gradient is exact for this sample of the relaxed subset, and the noise explores. The temperature falls from 1 to
    0.2.
    """

    name: ClassVar[str] = "gumbel"
    gradient: ClassVar[str] = "exact for a soft subset drawn with Gumbel noise"

    def choose(self, logits: Tensor, count: Tensor, valid: Tensor | None = None) -> Choice:
        """Keep every token, with the sampled soft mask as attention bias. See `Estimator.choose`."""
        real = torch.ones_like(logits, dtype=torch.bool) if valid is None else valid
        noise = -torch.log(-torch.log(torch.rand_like(logits).clamp(1e-9, 1 - 1e-7)))
        mask = relaxed_subset(logits + noise, count, real, annealed(self.progress, 1.0, 0.2))
        return Choice(real, bias=soft_bias(mask))


def relaxed_subset(keys: Tensor, count: Tensor, real: Tensor, temperature: float) -> Tensor:
    """Compute the soft top-k of ``keys``.

    Args:
        keys: [G, A] float.
        count: [G] int64, the size of each subset.
        real: [G, A] bool, False on padding.
        temperature: of the softmaxes; towards 0 the subset becomes hard.

    Returns:
        [G, A] in [0, 1]; row sums are ``count``.
    """
    lowest = torch.finfo(keys.dtype).min / 4
    keys = keys.masked_fill(~real, lowest)
    total = torch.zeros_like(keys)
    for step in range(max(1, int(count.max()))):  # once where nothing is kept, for a gradient of 0
        # One more token per group, spread over its candidates ...
        taken = torch.softmax(keys / temperature, dim=1)
        total = total + taken * (count > step)[:, None]
        # ... which are then less likely to be taken again.
        keys = keys + torch.log((1 - taken).clamp(min=1e-6))
    return total.clamp(max=1.0)
