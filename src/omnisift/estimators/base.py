"""The interface of gradient estimators: how scores get a gradient through the discrete choice of tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from omnisift.ops.selection_builder import Choice

LEAK = 1e-4
"""What a soft mask of 0 still lets through; its logarithm is the attention bias of a dropped token."""


class Estimator(ABC):
    """A rule for training steps. At inference the highest scores are kept and no estimator takes part."""

    name: ClassVar[str]
    """The name for recipes."""
    gradient: ClassVar[str]
    """What the gradient is, in about twelve words, for tables."""
    samples: ClassVar[int] = 1
    """Choices, and so forward passes, that a training step needs for each prompt."""
    progress: float = 0.0
    """Progress of training, from 0 to 1, set by the trainer; soft estimators harden with it."""

    @abstractmethod
    def choose(self, logits: Tensor, count: Tensor, valid: Tensor | None = None) -> Choice:
        """Choose tokens in every group.

        Args:
            logits: [G, A] float with a gradient; the highest are kept.
            count: [G] int64, kept tokens of each group, from 0 to its size.
            valid: [G, A] bool, False on padding, which is never kept; None if nothing is padded.

        Returns:
            The choice.
        """


def soft_bias(mask: Tensor, leak: float = LEAK) -> Tensor:
    """Turn a soft mask into an attention bias.

    A key with bias ``b`` has ``exp(b)`` times its weight in every softmax, so the bias is the mask's logarithm.

    Args:
        mask: [G, A] in [0, 1].
        leak: lower bound that keeps the logarithm finite.

    Returns:
        [G, A], at most 0.
    """
    return torch.log(leak + (1 - leak) * mask)


def annealed(progress: float, start: float, end: float) -> float:
    """Return a temperature that falls geometrically from ``start`` to ``end`` and is constant in the last fifth.

    Args:
        progress: progress of training, from 0 to 1.
        start: temperature at 0.
        end: temperature from 0.8 on.
    """
    return float(start * (end / start) ** min(1.0, progress / 0.8))
