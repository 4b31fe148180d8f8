"""Causal masks with an estimator's bias, which fades tokens instead of dropping them. Training only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from omnisift.models.prompt_cut import PromptCut
from omnisift.tokens import Selection


def with_attention_bias(
    arguments: dict[str, Any], selection: Selection, attention_mask: Tensor, cut: PromptCut | None
) -> dict[str, Any]:
    """Add ``selection.bias`` to the attention mask of the language model.

    Args:
        arguments: those of the call to the language model, already cut.
        selection: the compressor's decision on the full prompt.
        attention_mask: [B, S] bool on the CPU, False on padding, before ``cut``.
        cut: how the prompt was cut; None if nothing was dropped.

    Returns:
        ``arguments`` unchanged if there is no bias; else a copy with an additive mask [B, 1, K, K] in the dtype of the
        embeddings. Kernels that take no such mask (flash attention) refuse it, with an error from Transformers.
    """
    if selection.bias is None:
        return arguments
    inputs_embeds: Tensor = arguments["inputs_embeds"]
    rows, length = inputs_embeds.shape[:2]
    bias = selection.bias
    if cut is not None:
        attention_mask, bias = cut.mask, bias[cut.source.flatten().to(inputs_embeds.device)]
    # Causal and without padding: 0 where a query may look, the dtype's minimum elsewhere.
    visible = torch.ones(length, length, dtype=torch.bool).tril() & attention_mask[:, None, :]
    additive = torch.zeros(rows, 1, length, length, dtype=inputs_embeds.dtype, device=inputs_embeds.device)
    additive = additive.masked_fill(~visible[:, None].to(inputs_embeds.device), torch.finfo(inputs_embeds.dtype).min)
    # The bias belongs to the key, so it is the same for every query.
    return {**arguments, "attention_mask": additive + bias.to(inputs_embeds.dtype).view(rows, 1, 1, length)}
