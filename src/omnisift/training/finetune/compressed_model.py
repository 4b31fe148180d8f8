"""`CompressedModel`: a thinker and its compressor as one module, so that any trainer sees all trained parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnisift.compressors import Compressor
from omnisift.compressors.omnisift import trainable_part
from omnisift.estimators import Estimator
from omnisift.estimators.reinforce import leave_one_out
from omnisift.models import attach
from omnisift.models.head_loss import router_weight
from omnisift.models.prompt_cut import IGNORE_INDEX
from omnisift.models.training_checks import zero_loss_anchor
from omnisift.training.losses import ANSWERS
from omnisift.vgas import VGAS


@dataclass(frozen=True)
class LossOutput:
    """Result of one forward pass over a batch."""

    loss: Tensor
    """Scalar to differentiate. Zero, but part of the graph, where a batch has no labels."""
    sums: Tensor
    """[B] float32: cross-entropy or divergence of each row, summed over its labels; no gradient."""
    counts: Tensor
    """[B] int64: number of labels in each row."""


@dataclass(frozen=True)
class _Pass:
    """One reading of a batch."""

    sums: Tensor
    """[B]: loss summed over each row."""
    counts: Tensor
    """[B]: labels of each row."""
    log_prob: Tensor | None
    """[B]: log-probability of the compressor's choice, for estimators that sample."""
    router_loss: Tensor | None
    """Load-balancing loss of a mixture of experts, where its configuration asks for it."""


class CompressedModel(nn.Module):
    """A thinker whose prompts are compressed: ``forward(**batch)`` returns a `LossOutput`.

    The encoders are frozen and stay in evaluation mode. A batch without video or audio adds the selector's parameters
    to the loss with weight 0: distributed processes wait for the gradient of every parameter.

    Args:
        thinker: the model, which PEFT may have wrapped.
        compressor: the method that compresses every prompt.
        loss: what is learned in training, one of `omnisift.training.losses.LOSSES`. Evaluations measure the answers.
        teacher: a frozen copy of the thinker for self-distillation, which is no part of this module; None takes the
            thinker itself without its adapters, where nothing else of it is trained.
    """

    def __init__(
        self, thinker: nn.Module, compressor: Compressor, loss: str = ANSWERS, teacher: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.thinker, self.compressor, self.loss = thinker, compressor, loss
        self._teacher = (teacher,)  # in a tuple, so that it is not registered
        self.attachment = attach(thinker, compressor)
        self._encoders = self.attachment.adapter.parts.encoders
        for encoder in self._encoders:
            encoder.requires_grad_(False)

    @property
    def selector(self) -> Any:
        """The compressor's selector, or that of one half of a pair; None if it has none."""
        return next((part for part in self.compressor.modules() if isinstance(part, VGAS)), None)

    @property
    def estimator(self) -> Estimator | None:
        """The estimator of the compressor that has the selector; None if there is no selector."""
        learner = trainable_part(self.compressor)
        return None if learner is None else learner.estimator

    def train(self, mode: bool = True) -> CompressedModel:
        """Set the training mode, but leave the frozen encoders in evaluation mode."""
        super().train(mode)
        for encoder in getattr(self, "_encoders", []):
            encoder.eval()
        return self

    def forward(
        self,
        labels: Tensor,
        num_items_in_batch: Any = None,
        frame_seconds: Sequence[float] | None = None,
        **inputs: Any,
    ) -> LossOutput:
        """The loss at the labels on compressed prompts.

        Args:
            labels: [B, S] int64 over the full prompt, -100 where nothing is learned; cut with the prompt.
            num_items_in_batch: labels of the optimizer step; the summed loss is divided by it. None takes the mean
                over the labels of this batch.
            frame_seconds: seconds of a frame of each video, for hosts that are not told them.
            inputs: what the thinker's ``forward`` takes.

        Returns:
            The loss and its parts per row.
        """
        self.attachment.frame_seconds = frame_seconds
        # Computed first, so that its gradients come last: see `zero_loss_anchor`.
        anchor = zero_loss_anchor(self, self.attachment.adapter.parts.language_model)
        # Self-distillation: the distributions of the untrained model, which reads all tokens.
        distills = self.loss != ANSWERS and self.training
        scores = self._teacher_scores(labels, inputs) if distills else None
        # Estimators that sample, such as REINFORCE, read the batch once per sample.
        estimator = self.estimator
        samples = estimator.samples if estimator is not None and self._selector_trains else 1
        passes = [self._compressed_pass(labels, inputs, scores) for _ in range(samples)]
        sums = torch.stack([one.sums for one in passes])  # [samples, B]
        counts = passes[0].counts
        divisor = counts.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        loss = sums.mean(dim=0).sum() / divisor
        # Mixtures of experts whose configuration asks for it: the host's load-balancing loss, by the share of labels.
        router_losses = [one.router_loss for one in passes if one.router_loss is not None]
        if router_losses:
            weight = router_weight(self.attachment.adapter.parts.head) * counts.sum() / divisor
            loss = loss + weight * torch.stack(router_losses).mean().to(loss.device)
        # Score function: each sample's log-probability, weighted by its loss against the mean of the other samples.
        log_probs = [one.log_prob for one in passes if one.log_prob is not None]
        if len(log_probs) > 1:
            reward = (leave_one_out(sums.detach()) * torch.stack(log_probs)).mean(dim=0).sum()
            loss = loss + reward / divisor
        return LossOutput(loss + anchor.to(loss.device), sums.detach().mean(dim=0), counts)

    @property
    def _selector_trains(self) -> bool:
        return self.training and torch.is_grad_enabled() and self.selector is not None

    @contextmanager
    def untrained(self) -> Iterator[Any]:
        """In the block: the thinker before training, which reads all tokens, in evaluation mode without gradients."""
        (teacher,) = self._teacher
        if teacher is not None:
            with torch.no_grad():
                yield teacher
            return
        # PEFT's own switch also changes which parameters are trained, of which sharded models hold two kinds.
        adapters: list[Any] = [module for module in self.thinker.modules() if hasattr(module, "lora_A")]
        scales = [module.scaling for module in adapters]
        for module in adapters:
            module.scaling = dict.fromkeys(module.scaling, 0.0)
        self.attachment.is_paused = True
        self.thinker.eval()
        try:
            with torch.no_grad():
                yield self.thinker
        finally:
            for module, scale in zip(adapters, scales, strict=True):
                module.scaling = scale
            self.attachment.is_paused = False
            self.train(self.training)

    def _teacher_scores(self, labels: Tensor, inputs: dict[str, Any]) -> Tensor:
        """[N, V] float32: log-probabilities of the untrained model at the N labels, row by row."""
        mask = labels[:, 1:] != IGNORE_INDEX

        def at_labels(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (args[0][:, :-1][mask.to(args[0].device)],)

        with self.untrained() as thinker:
            if thinker is not self.thinker:
                thinker.to(labels.device)  # a launcher moves the registered parts alone
            hook = thinker.get_output_embeddings().register_forward_pre_hook(at_labels)
            try:
                logits: Tensor = thinker(**inputs, use_cache=False).logits
            finally:
                hook.remove()
            return logits.float().log_softmax(dim=-1)

    def _compressed_pass(self, labels: Tensor, inputs: dict[str, Any], scores: Tensor | None) -> _Pass:
        self.attachment.last = self.attachment.selection = self.attachment.cut = None  # drop the previous prompt's
        output = self.thinker(**inputs, use_cache=False)
        cut = self.attachment.cut
        sums, counts = row_losses(output.logits, labels if cut is None else cut.labels(labels), scores)
        selection = self.attachment.selection
        log_prob = None if selection is None else selection.log_prob
        return _Pass(sums, counts, log_prob, getattr(output, "aux_loss", None))


def row_losses(logits: Tensor, labels: Tensor, teacher: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Next-token cross-entropy of each row, or KL(teacher || model) at the same places.

    Args:
        logits: [B, S, V].
        labels: [B, S] int64; -100 is ignored.
        teacher: [N, V], log-probabilities of the teacher at the N labels; None takes the labels themselves.

    Returns:
        (sums [B] float32, number of labels [B] int64).
    """
    # The logits at position t predict the token at t + 1.
    targets = labels[:, 1:].to(logits.device)
    mask = targets != IGNORE_INDEX
    rows = torch.nonzero(mask, as_tuple=True)[0]
    scores = logits[:, :-1][mask].float()
    if teacher is None:
        losses = F.cross_entropy(scores, targets[mask], reduction="none")
    else:
        losses = F.kl_div(scores.log_softmax(dim=-1), teacher, reduction="none", log_target=True).sum(dim=-1)
    sums = torch.zeros(len(labels), device=logits.device).index_add(0, rows, losses)
    return sums, mask.sum(dim=1)
