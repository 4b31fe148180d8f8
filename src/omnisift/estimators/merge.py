"""Score-weighted merging: what is dropped joins what stays, so every score has a gradient."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.estimators.base import Choice, Estimator, hardened, highest


class Merge(Estimator):
    """A kept token becomes the mean of itself and of the dropped tokens near it in time, weighted by their scores.

    With ``k_ji`` the share of dropped token ``j`` that goes to kept token ``i`` (a softmax over the distance in the
    chunk) and ``b`` a strength that falls to nearly 0:
    ``e_i <- (s_i e_i + b sum_j k_ji s_j e_j) / (s_i + b sum_j k_ji s_j)``.
    A higher ``s_j`` puts more of ``j`` into the prompt, so a dropped token is asked back where that lowers the loss,
    and a kept one gives way. The gradient is exact for this merged prompt, not for the hard one that it becomes.
    """

    name: ClassVar[str] = "merge"
    gradient: ClassVar[str] = "exact for kept tokens merged with dropped ones, by score"
    nearness: ClassVar[float] = 1.0
    """PositionColumns of the chunk over which a dropped token's share falls by e."""

    def choose(self, logits: Tensor, count: Tensor, valid: Tensor | None = None) -> Choice:
        """One hard choice of slots, and what fills them."""
        keep = highest(logits, count, valid)
        real = torch.ones_like(keep) if valid is None else valid
        score, strength = torch.sigmoid(logits), hardened(self.progress, 1.0, 0.02)
        place = torch.arange(logits.shape[1], device=logits.device, dtype=logits.dtype)
        far = -(place[:, None] - place).abs() / self.nearness  # [A, A]
        share = far.expand(len(keep), -1, -1).masked_fill(~keep[:, None, :], torch.finfo(logits.dtype).min / 2)
        share = share.softmax(dim=2)  # [G, dropped j, kept i]
        share = share * (real & ~keep)[:, :, None]
        weight = strength * (share * score[:, :, None]).transpose(1, 2)  # [G, i, j]
        weight = weight + torch.diag_embed(score)
        return Choice(keep, mix=weight / weight.sum(dim=2, keepdim=True))
