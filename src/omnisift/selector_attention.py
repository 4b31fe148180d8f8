"""The selector's attention as functions on tensors: values mixed (paper eq 7), or the attention itself as the score."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attend(attention: nn.MultiheadAttention, audio: Tensor, keys: Tensor, valid: Tensor | None) -> Tensor:
    """Paper eq 7, [C, A, hidden]: ``attention(audio, keys, keys)``, the same sums through the fused kernel.

    ``audio`` [C, A, hidden] asks, ``keys`` [C, N, hidden] answer; ``valid`` [C, N] bool, or None for all.
    """
    hidden, heads = attention.embed_dim, attention.num_heads
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    query = split_heads(F.linear(audio, weight[:hidden], bias[:hidden]), heads)
    key, value = F.linear(keys, weight[hidden:], bias[hidden:]).chunk(2, dim=-1)
    mask = None if valid is None else valid[:, None, None, :]
    mixed = F.scaled_dot_product_attention(query, split_heads(key, heads), split_heads(value, heads), attn_mask=mask)
    out: Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return out


def attention_given(attention: nn.MultiheadAttention, audio: Tensor, keys: Tensor) -> Tensor:
    """[C, A, N]: the weights by which `attend` mixes ``keys`` [C, N, hidden] into ``audio``, mean over heads.

    From torch's own slower path of the same module, which builds the matrix; for looking, not for scoring.
    """
    weights: Tensor = attention(audio, keys, keys, need_weights=True)[1]
    return weights


def attention_received(query: Tensor, key: Tensor, query_valid: Tensor | None, key_valid: Tensor | None) -> Tensor:
    """[C, A]: log of the attention that a key receives, averaged over heads and queries (our reading of table 12).

    ``query`` [C, H, K, d], ``key`` [C, H, A, d]; valid: [C, K] and [C, A] bool, or None. exp sums to one in each chunk.
    """
    logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])  # [C, H, K, A]
    never = torch.finfo(logits.dtype).min / 2  # exp is 0, yet finite: -inf would give NaN gradients
    if key_valid is not None:
        logits = logits.masked_fill(~key_valid[:, None, None, :], never)
    share = F.log_softmax(logits, dim=-1)
    if query_valid is None:
        return torch.logsumexp(share, dim=(1, 2)) - math.log(query.shape[1] * query.shape[2])
    share = share.masked_fill(~query_valid[:, None, :, None], never)
    rows = query.shape[1] * query_valid.sum(dim=1, keepdim=True)  # [C, 1]
    return torch.logsumexp(share, dim=(1, 2)) - torch.log(rows).to(share.dtype)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[C, N, hidden] -> [C, H, N, hidden / H]."""
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)


def beside(video_valid: Tensor | None, audio_valid: Tensor | None, video: Tensor, audio: Tensor) -> Tensor | None:
    """[C, K + A] bool: both masks, where None means all valid; None if both are."""
    if video_valid is None and audio_valid is None:
        return None
    parts = ((video_valid, video), (audio_valid, audio))
    return torch.cat([x.new_ones(x.shape[:2], dtype=torch.bool) if m is None else m for m, x in parts], dim=1)
