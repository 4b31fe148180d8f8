"""What an estimator is: how a selector's scores get a gradient although a choice of tokens has none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from omnisift.straight_through import segment_topk

LEAK = 1e-4
"""What a soft mask of 0 lets through: its logarithm is the bias of a token that is as good as dropped."""


@dataclass(frozen=True)
class Choice:
    """What happens to the tokens of ``G`` groups (chunks) of ``A`` tokens in one training step."""

    keep: Tensor
    """[G, A] bool: what stays in the prompt. All of it where softness enters through the attention."""
    gate: Tensor | None = None
    """[G, A]: multiplies the embeddings."""
    bias: Tensor | None = None
    """[G, A], at most 0: added to every attention logit that looks at the token."""
    mix: Tensor | None = None
    """[G, A, A]: row ``i`` says of which tokens a kept token ``i`` is the weighted mean; rows sum to 1."""
    log_prob: Tensor | None = None
    """[G]: log-probability of this choice, for estimators that learn from the loss as a reward."""


class Estimator(ABC):
    """A rule for training steps. When a model answers, the highest scores stay and no estimator is asked."""

    name: ClassVar[str]
    """What a recipe calls it."""
    gradient: ClassVar[str]
    """What the gradient is, in about twelve words, for tables."""
    samples: ClassVar[int] = 1
    """How many choices a training step needs for each prompt."""
    progress: float = 0.0
    """How far training is, 0 to 1: soft estimators harden with it. The trainer sets it."""

    @abstractmethod
    def choose(self, logits: Tensor, count: Tensor, valid: Tensor | None = None) -> Choice:
        """Decide on groups of tokens.

        ``logits`` [G, A] float with a gradient, higher stays; ``count`` [G] int64, how many of each group stay (0 to
        its size); ``valid`` [G, A] bool, False where padded (None: nothing is). Padding never stays.
        """


def highest(logits: Tensor, count: Tensor, valid: Tensor | None = None) -> Tensor:
    """[G, A] bool: the ``count`` [G] highest of each row; equal ones keep the first."""
    values = logits.detach()
    if valid is not None:
        values = values.masked_fill(~valid, -torch.inf)
    row = torch.arange(len(values), device=values.device).repeat_interleave(values.shape[1])
    return segment_topk(values.flatten(), row, count).view_as(values)


def soft_bias(mask: Tensor, leak: float = LEAK) -> Tensor:
    """[G, A] attention bias of a soft mask in [0, 1]: its logarithm, kept finite by ``leak``.

    A key with bias ``b`` weighs ``exp(b)`` times as much in every softmax; at ``log 0`` it would not exist at all.
    """
    return torch.log(leak + (1 - leak) * mask)


def hardened(progress: float, start: float, end: float) -> float:
    """A temperature that falls from ``start`` to ``end`` by equal factors, and stays there in the last fifth."""
    return float(start * (end / start) ** min(1.0, progress / 0.8))
