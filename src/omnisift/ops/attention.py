"""Attention of the selector's variants (paper table 12) and for inspection, as functions on tensors."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def attention_weights(attention: nn.MultiheadAttention, audio: Tensor, keys: Tensor) -> Tensor:
    """Return the weights of one attention layer, for inspection.

    Uses torch's own path of the layer, which builds the matrix and is slower.

    Args:
        attention: the layer.
        audio: [C, A, hidden] queries.
        keys: [C, N, hidden] keys.

    Returns:
        [C, A, N], the mean over heads; rows sum to 1.
    """
    weights: Tensor = attention(audio, keys, keys, need_weights=True)[1]
    return weights


def log_attention_received(query: Tensor, key: Tensor, query_valid: Tensor | None, key_valid: Tensor | None) -> Tensor:
    """Return the log of the attention that each key receives (our reading of the paper's table 12).

    Args:
        query: [C, H, K, d], from the anchors.
        key: [C, H, A, d], from the audio tokens.
        query_valid: [C, K] bool, False on padding; None if nothing is padded.
        key_valid: [C, A] bool, likewise.

    Returns:
        [C, A], averaged over heads and queries before the log; its exp sums to 1 in each chunk.
    """
    logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])  # [C, H, K, A]
    lowest = torch.finfo(logits.dtype).min / 2  # exp is 0, yet finite: -inf would give NaN gradients
    if key_valid is not None:
        logits = logits.masked_fill(~key_valid[:, None, None, :], lowest)
    # Softmax over the keys, then the mean over heads and queries, all in log space.
    share = F.log_softmax(logits, dim=-1)
    if query_valid is None:
        return torch.logsumexp(share, dim=(1, 2)) - math.log(query.shape[1] * query.shape[2])
    share = share.masked_fill(~query_valid[:, None, :, None], lowest)
    rows = query.shape[1] * query_valid.sum(dim=1, keepdim=True)  # [C, 1]
    return torch.logsumexp(share, dim=(1, 2)) - torch.log(rows).to(share.dtype)


def concat_valid(video_valid: Tensor | None, audio_valid: Tensor | None, video: Tensor, audio: Tensor) -> Tensor | None:
    """Concatenate the padding masks of anchors and audio tokens (table 12, concatenated keys).

    Args:
        video_valid: [C, K] bool; None means that nothing is padded.
        audio_valid: [C, A] bool; None means that nothing is padded.
        video: [C, K, hidden], for the shape.
        audio: [C, A, hidden], for the shape.

    Returns:
        [C, K + A] bool, or None if both are None.
    """
    if video_valid is None and audio_valid is None:
        return None
    parts = ((video_valid, video), (audio_valid, audio))
    return torch.cat([x.new_ones(x.shape[:2], dtype=torch.bool) if m is None else m for m, x in parts], dim=1)
