"""Tokens that fade instead of going: a causal mask with the bias of an estimator added to it. Training only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from omnisift.models.prompt_cut import Cut
from omnisift.tokens import Selection


def faded(arguments: dict[str, Any], selection: Selection, real: Tensor, cut: Cut | None) -> dict[str, Any]:
    """The language model's arguments with the mask that ``selection.bias`` asks for; unchanged without one.

    ``real`` [B, S] bool on the CPU: not padding, before ``cut``. The mask is additive, [B, 1, K, K], in the embeddings'
    dtype: kernels that take no such mask (flash attention) can't run it, and Transformers says so.
    """
    if selection.bias is None:
        return arguments
    embeds: Tensor = arguments["inputs_embeds"]
    rows, length = embeds.shape[:2]
    if cut is not None:
        real, bias = cut.real, selection.bias[cut.source.flatten().to(embeds.device)]
    else:
        bias = selection.bias
    seen = torch.ones(length, length, dtype=torch.bool).tril() & real[:, None, :]
    hidden = torch.zeros(rows, 1, length, length, dtype=embeds.dtype, device=embeds.device)
    hidden = hidden.masked_fill(~seen[:, None].to(embeds.device), torch.finfo(embeds.dtype).min)
    return {**arguments, "attention_mask": hidden + bias.to(embeds.dtype).view(rows, 1, 1, length)}
