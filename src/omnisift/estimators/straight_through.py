"""The straight-through estimator of the paper (section 3.3), as in the released code."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.estimators.base import Choice, Estimator, highest
from omnisift.straight_through import topk_mask


class StraightThrough(Estimator):
    """Hard top-k; a kept embedding is multiplied by ``hard - stop_gradient(s) + s``, which is exactly 1.

    The gradient of a kept token's score ``s`` is that of *rescaling* its embedding, ``<dL/de, e>``, to which a pre-norm
    decoder hardly responds. A dropped token is not in the graph, so its score gets no gradient.
    """

    name: ClassVar[str] = "straight_through"
    gradient: ClassVar[str] = "kept tokens only: the effect of rescaling their embedding"

    def choose(self, logits: Tensor, count: Tensor, valid: Tensor | None = None) -> Choice:
        """Keep the highest logits, with the straight-through gate. See `Estimator.choose`."""
        keep = highest(logits, count, valid)
        return Choice(keep, gate=topk_mask(torch.sigmoid(logits), keep))
