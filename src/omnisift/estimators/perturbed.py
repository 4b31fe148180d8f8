"""Perturbed top-k: the mean of many noisy choices has a gradient (Berthet et al., arXiv 2002.08676)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from omnisift.estimators.base import Choice, Estimator, hardened, highest, soft_bias


class Perturbed(Estimator):
    """The share of ``draws`` top-k choices under Gaussian noise in which a token stays, as attention bias (`Bias`).

    ``m(l) = E[topk(l + sigma z)]`` is smooth although each choice is hard, and
    ``dm/dl = E[topk(l + sigma z) z^T] / sigma`` is estimated from the same draws, less their mean, which changes no
    expectation and quietens it. The gradient is unbiased for ``m``; sigma falls from 1 to 0.1.
    """

    name: ClassVar[str] = "perturbed"
    gradient: ClassVar[str] = "unbiased for the mean of top-k choices under noise"
    draws: ClassVar[int] = 32

    def choose(self, logits: Tensor, count: Tensor, valid: Tensor | None = None) -> Choice:
        """Everything stays, as visible as it is often chosen."""
        real = torch.ones_like(logits, dtype=torch.bool) if valid is None else valid
        noise = torch.randn(self.draws, *logits.shape, device=logits.device, dtype=logits.dtype)
        mask: Tensor = _PerturbedTopK.apply(logits, noise, hardened(self.progress, 1.0, 0.1), count, real)
        return Choice(real, bias=soft_bias(mask))


class _PerturbedTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, noise: Tensor, sigma: float, count: Tensor, real: Tensor) -> Tensor:
        """[G, A]: mean over the draws of ``noise`` [N, G, A]."""
        keys = (logits + sigma * noise).flatten(0, 1)
        many = highest(keys, count.repeat(len(noise)), real.repeat(len(noise), 1)).view_as(noise).to(logits.dtype)
        mean = many.mean(dim=0)
        ctx.save_for_backward(many - mean, noise * real)
        ctx.sigma = sigma
        return mean

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """``E[<g, topk> z] / sigma``, with ``N - 1`` draws' worth of freedom since their mean was taken off."""
        less_mean, noise = ctx.saved_tensors
        pull = (less_mean * gradients[0]).sum(dim=2, keepdim=True)  # [N, G, 1]
        return (pull * noise).sum(dim=0) / (ctx.sigma * (len(noise) - 1)), None, None, None, None
