"""`CompressedModel`: a thinker and its compressor as one module, so that any trainer sees all that learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnisift.compressors import Compressor
from omnisift.compressors.omnisift import learner_of
from omnisift.estimators import Estimator
from omnisift.estimators.reinforce import leave_one_out
from omnisift.models import attach
from omnisift.models.qwen2_5_omni import Qwen25OmniAdapter
from omnisift.models.training_checks import zero_loss_anchor
from omnisift.training.data.encoding import IGNORED
from omnisift.vgas import VGAS


@dataclass(frozen=True)
class Cost:
    """What one forward pass of a batch says."""

    loss: Tensor
    """Scalar: what is differentiated. Zero, yet in the graph, where nothing is to be learned."""
    sums: Tensor
    """[B]: cross-entropy of each row, summed over its labels; no gradient."""
    counts: Tensor
    """[B] int64: labels of each row."""


class CompressedModel(nn.Module):
    """``forward(**batch)`` compresses every prompt and returns its `Cost`.

    ``thinker`` may be wrapped by PEFT. The encoders are frozen and stay in evaluation mode. In a batch without video or
    sound the selector is touched with weight 0, or distributed processes would wait for gradients that never come.
    """

    def __init__(self, thinker: nn.Module, compressor: Compressor) -> None:
        super().__init__()
        self.thinker, self.compressor = thinker, compressor
        self.attachment = attach(thinker, compressor)
        unwrap: Any = getattr(thinker, "get_base_model", None)
        core: Any = Qwen25OmniAdapter(thinker if unwrap is None else unwrap()).parts.core
        self._encoders = [core.visual, core.audio_tower]
        for encoder in self._encoders:
            encoder.requires_grad_(False)

    @property
    def selector(self) -> Any:
        """The compressor's selector, or that of a pair's half; None if there is none."""
        return next((part for part in self.compressor.modules() if isinstance(part, VGAS)), None)

    @property
    def estimator(self) -> Estimator | None:
        """Of the part of the compressor that has the selector; None if there is none."""
        learner = learner_of(self.compressor)
        return None if learner is None else learner.estimator

    def train(self, mode: bool = True) -> CompressedModel:
        """As usual, but the frozen encoders are left in evaluation mode."""
        super().train(mode)
        for encoder in getattr(self, "_encoders", []):
            encoder.eval()
        return self

    def forward(self, labels: Tensor, num_items_in_batch: Any = None, **inputs: Any) -> Cost:
        """Cross-entropy of ``labels`` [B, S] (-100 is ignored), cut with the prompt.

        It is the mean over the labels of this batch, or with ``num_items_in_batch`` the sum divided by that number (the
        labels of a whole optimiser step).
        """
        touch = zero_loss_anchor(self, self.attachment.adapter.parts.language_model)  # before all else: see there
        estimator = self.estimator
        draws = estimator.samples if estimator is not None and self._draws else 1
        read = [self._read(labels, inputs) for _ in range(draws)]
        sums = torch.stack([sums for sums, _, _ in read])  # [S, B]
        counts = read[0][1]
        whole = counts.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        loss = sums.mean(dim=0).sum() / whole
        chances = [log_prob for _, _, log_prob in read if log_prob is not None]
        if len(chances) > 1:
            reward = (leave_one_out(sums.detach()) * torch.stack(chances)).mean(dim=0).sum()
            loss = loss + reward / whole
        return Cost(loss + touch.to(loss.device), sums.detach().mean(dim=0), counts)

    @property
    def _draws(self) -> bool:
        return self.training and torch.is_grad_enabled() and self.selector is not None

    def _read(self, labels: Tensor, inputs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor | None]:
        """(loss summed over each row [B], labels of each row [B], log-probability of the choice [B] or None)."""
        self.attachment.last = self.attachment.selection = self.attachment.cut = None  # nothing of an earlier prompt
        logits = self.thinker(**inputs, use_cache=False).logits
        cut = self.attachment.cut
        sums, counts = row_losses(logits, labels if cut is None else cut.labels(labels))
        selection = self.attachment.selection
        return sums, counts, None if selection is None else selection.log_prob


def row_losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Next-token cross-entropy of each row: (sums [B] float32, counts [B])."""
    targets = labels[:, 1:].to(logits.device)
    where = targets != IGNORED
    rows = torch.nonzero(where, as_tuple=True)[0]
    each = F.cross_entropy(logits[:, :-1][where].float(), targets[where], reduction="none")
    sums = torch.zeros(len(labels), device=logits.device).index_add(0, rows, each)
    return sums, where.sum(dim=1)
