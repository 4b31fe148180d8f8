"""The paper's estimator (section 3.3), as the released code has it."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.estimators.base import Choice, Estimator, highest
from omnisift.straight_through import topk_mask


class Literal(Estimator):
    """Hard top-k; a kept embedding is multiplied by ``hard - stop(s) + s``, which is exactly 1.

    The gradient of a kept token's score ``s`` is that of *rescaling* its embedding, ``<dL/de, e>``. A pre-norm decoder
    hardly feels that. A dropped token is not in the graph: its score gets none, so nothing ever asks it back.
    """

    name: ClassVar[str] = "literal"
    gradient: ClassVar[str] = "kept tokens only: the effect of rescaling their embedding"

    def choose(self, logits: Tensor, count: Tensor, valid: Tensor | None = None) -> Choice:
        """One hard choice with its straight-through gate."""
        keep = highest(logits, count, valid)
        return Choice(keep, gate=topk_mask(torch.sigmoid(logits), keep))
