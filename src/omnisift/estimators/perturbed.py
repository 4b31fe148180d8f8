"""Perturbed top-k: the mean of many noisy choices has a gradient (Berthet et al., arXiv 2002.08676)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from omnisift.estimators.base import Estimator, annealed, soft_bias
from omnisift.ops.selection_builder import Choice
from omnisift.ops.topk import row_topk


class Perturbed(Estimator):
    """The fraction of ``draws`` top-k choices under Gaussian noise that keep a token, as attention bias (`Bias`).

    ``m(l) = E[topk(l + sigma z)]`` is smooth although each choice is hard. Its derivative
    ``dm/dl = E[topk(l + sigma z) z^T] / sigma`` is estimated from the same draws, less their mean, which reduces the
    variance and changes no expectation. The gradient is unbiased for ``m``; sigma falls from 1 to 0.1.
    """

    name: ClassVar[str] = "perturbed"
    gradient: ClassVar[str] = "unbiased for the mean of top-k choices under noise"
    draws: ClassVar[int] = 32
    """Noisy choices per step."""

    def choose(self, logits: Tensor, count: Tensor, valid: Tensor | None = None) -> Choice:
        """Keep every token, with the mean choice as attention bias. See `Estimator.choose`."""
        real = torch.ones_like(logits, dtype=torch.bool) if valid is None else valid
        noise = torch.randn(self.draws, *logits.shape, device=logits.device, dtype=logits.dtype)
        mask: Tensor = _PerturbedTopK.apply(logits, noise, annealed(self.progress, 1.0, 0.1), count, real)
        return Choice(real, bias=soft_bias(mask))


class _PerturbedTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, noise: Tensor, sigma: float, count: Tensor, real: Tensor) -> Tensor:
        """The mean choice [G, A] over the draws of ``noise`` [N, G, A]."""
        keys = (logits + sigma * noise).flatten(0, 1)
        choices = row_topk(keys, count.repeat(len(noise)), real.repeat(len(noise), 1)).view_as(noise).to(logits.dtype)
        mean = choices.mean(dim=0)
        ctx.save_for_backward(choices - mean, noise * real)
        ctx.sigma = sigma
        return mean

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """``E[<g, topk> z] / sigma``, with ``N - 1`` degrees of freedom since the mean was subtracted."""
        centred, noise = ctx.saved_tensors
        weight = (centred * gradients[0]).sum(dim=2, keepdim=True)  # [N, G, 1]
        return (weight * noise).sum(dim=0) / (ctx.sigma * (len(noise) - 1)), None, None, None, None
