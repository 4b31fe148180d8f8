"""Score-weighted merging: dropped tokens join kept ones, so every score has a gradient."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.estimators.base import Estimator, annealed
from omnisift.ops.selection_builder import Choice
from omnisift.ops.topk import row_topk


class Merge(Estimator):
    """A kept token becomes the mean of itself and of nearby dropped tokens, weighted by their scores.

    With ``k_ji`` the share of dropped token ``j`` that goes to kept token ``i`` (a softmax over their distance in the
    chunk) and ``b`` a strength that falls to nearly 0:
    ``e_i <- (s_i e_i + b sum_j k_ji s_j e_j) / (s_i + b sum_j k_ji s_j)``.
    A higher ``s_j`` puts more of ``j`` into the prompt, so the score of a dropped token rises where that lowers the
    loss. The gradient is exact for this merged prompt, not for the hard one that it converges to.
    """

    name: ClassVar[str] = "merge"
    gradient: ClassVar[str] = "exact for kept tokens merged with dropped ones, by score"
    nearness: ClassVar[float] = 1.0
    """Distance, in tokens of the chunk, over which a dropped token's share falls by a factor of e."""

    def choose(self, logits: Tensor, count: Tensor, valid: Tensor | None = None) -> Choice:
        """Keep the highest logits, with the mixing weights. See `Estimator.choose`."""
        keep = row_topk(logits.detach(), count, valid)
        real = torch.ones_like(keep) if valid is None else valid
        score, strength = torch.sigmoid(logits), annealed(self.progress, 1.0, 0.02)
        # k_ji: each dropped token is divided among the kept ones by distance.
        index = torch.arange(logits.shape[1], device=logits.device, dtype=logits.dtype)
        closeness = -(index[:, None] - index).abs() / self.nearness  # [A, A]
        lowest = torch.finfo(logits.dtype).min / 2
        share = closeness.expand(len(keep), -1, -1).masked_fill(~keep[:, None, :], lowest)
        share = share.softmax(dim=2)  # [G, dropped j, kept i]
        share = share * (real & ~keep)[:, :, None]
        # Weights of the mean: b k_ji s_j for dropped tokens, s_i for the kept one.
        weight = strength * (share * score[:, :, None]).transpose(1, 2)  # [G, i, j]
        weight = weight + torch.diag_embed(score)
        return Choice(keep, mix=weight / weight.sum(dim=2, keepdim=True))
