"""A soft attention bias that hardens during training: all tokens stay in the graph, most of them fading."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.estimators.base import Estimator, annealed, soft_bias
from omnisift.ops.selection_builder import Choice


class Bias(Estimator):
    """Each token has the soft mask ``m = sigmoid((logit - threshold) / T)``; ``log m`` is its attention bias.

    The threshold is midway between the last logit that would be kept and the first that would be dropped, so only
    differences count. ``T`` falls from 1 to 0.05. The gradient is exact for the soft prompt and reaches every token,
    kept or not; as ``T`` falls, the soft prompt becomes the hard one and the gradient concentrates at the threshold.
    The prompt keeps its full length in these steps, so kernels without an additive mask can't run it.
    """

    name: ClassVar[str] = "bias"
    gradient: ClassVar[str] = "exact for tokens faded by attention bias, which hardens"

    def choose(self, logits: Tensor, count: Tensor, valid: Tensor | None = None) -> Choice:
        """Keep every token, with its attention bias. See `Estimator.choose`."""
        real = torch.ones_like(logits, dtype=torch.bool) if valid is None else valid
        mask = torch.sigmoid((logits - _threshold(logits, count, real)) / annealed(self.progress, 1.0, 0.05))
        # Where nothing is to be kept there is no threshold: all tokens fade.
        keeps_any = (count > 0)[:, None]
        return Choice(real, bias=soft_bias(torch.where(keeps_any, mask, torch.zeros_like(mask))))


def _threshold(logits: Tensor, count: Tensor, real: Tensor) -> Tensor:
    """Midway between the last kept and the first dropped logit, [G, 1]; below all of them where all are kept."""
    ordered = logits.masked_fill(~real, -torch.inf).sort(dim=1, descending=True, stable=True).values
    last_kept = ordered.gather(1, (count[:, None] - 1).clamp(min=0))
    first_dropped = ordered.gather(1, count[:, None].clamp(max=logits.shape[1] - 1))
    all_kept = count >= real.sum(dim=1)
    first_dropped = torch.where(all_kept[:, None] | torch.isinf(first_dropped), last_kept - 20.0, first_dropped)
    return (last_kept + first_dropped) / 2
