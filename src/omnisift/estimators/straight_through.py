"""The straight-through estimator of the paper (section 3.3), as in the released code."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.estimators.base import Estimator
from omnisift.ops.selection_builder import Choice
from omnisift.ops.topk import row_topk


class StraightThrough(Estimator):
    """Hard top-k; a kept embedding is multiplied by ``hard - stop_gradient(s) + s``, which is exactly 1.

    The gradient of a kept token's score ``s`` is that of *rescaling* its embedding, ``<dL/de, e>``, to which a pre-norm
    decoder hardly responds. A dropped token is not in the graph, so its score gets no gradient.
    """

    name: ClassVar[str] = "straight_through"
    gradient: ClassVar[str] = "kept tokens only: the effect of rescaling their embedding"

    def choose(self, logits: Tensor, count: Tensor, valid: Tensor | None = None) -> Choice:
        """Keep the highest logits, with the straight-through gate. See `Estimator.choose`."""
        keep = row_topk(logits.detach(), count, valid)
        return Choice(keep, gate=topk_mask(torch.sigmoid(logits), keep))


def topk_mask(scores: Tensor, keep: Tensor) -> Tensor:
    """Build the straight-through mask of the paper's section 3.3.

    Only tokens that stay in the graph get a gradient, and it measures the effect of *rescaling* an embedding, to which
    pre-norm decoders hardly respond (docs/methods.md).

    Args:
        scores: float in (0, 1), with a gradient.
        keep: bool of the same shape.

    Returns:
        Exactly 1.0 and 0.0 in the forward pass; the gradient passes to ``scores`` unchanged.
    """
    hard = keep.to(scores.dtype)
    return (hard - scores).detach() + scores
