"""Attention that each step of an encoder receives, summed over blocks instead of a full attention matrix.

    s_j = mean over heads of (sum over queries i of softmax over j of (q_i k_j scale))

This is the column sum of the softmax. OmniZip (for audio), SEATS and VisionZip (for both) read it from the last layer
of an encoder as saliency. Ten minutes of audio at 50 Hz would need 36 GB for the matrix in bfloat16; a block needs
64 MiB in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

BLOCK = 2**24
"""Attention weights in memory at once (a single query's row may be longer)."""


@torch.no_grad()
def received_attention(query: Tensor, key: Tensor, scale: float, lengths: Sequence[int], block: int = BLOCK) -> Tensor:
    """Sum the attention that each step receives from all queries of its sequence.

    The softmax is taken in float32 for every dtype of the model, under autocast too.

    Args:
        query: [H, T, d], the queries of all sequences one after another.
        key: [H, T, d], the keys. Each sequence attends to itself only.
        scale: factor on the logits.
        lengths: steps of each sequence; they sum to T.
        block: most attention weights in memory at once.

    Returns:
        [T] float32, at least 0. It sums to the sequence's length over each sequence.

    Raises:
        ValueError: ``lengths`` do not sum to T.
    """
    if sum(lengths) != query.shape[1]:
        raise ValueError(f"lengths must sum to the {query.shape[1]} steps of query, got {sum(lengths)}")
    received = query.new_zeros(query.shape[1], dtype=torch.float32)
    start = 0
    with torch.autocast(query.device.type, enabled=False):
        # Consecutive sequences of equal length are one batch: an encoder has hundreds of windows.
        for length, run in groupby(length for length in lengths if length):
            stop = start + length * len(list(run))
            queries, keys = (side[:, start:stop].reshape(-1, length, side.shape[-1]) for side in (query, key))
            sums = _column_sums(queries, keys, scale, block)
            received[start:stop] = sums.view(len(query), -1).mean(dim=0)
            start = stop
    return received


def _column_sums(query: Tensor, key: Tensor, scale: float, block: int) -> Tensor:
    """[N, t] float32 from [N, t, d]: the softmax over keys, summed over queries, in blocks of rows and queries."""
    rows, length, _ = query.shape
    # As many queries as fit into a block, then as many rows as still fit.
    n_queries = min(length, max(1, block // length))
    n_rows = max(1, block // (n_queries * length))
    sums = query.new_zeros(rows, length, dtype=torch.float32)
    for top in range(0, rows, n_rows):
        keys = (key[top : top + n_rows].float() * scale).transpose(1, 2)
        for first in range(0, length, n_queries):
            weights = query[top : top + n_rows, first : first + n_queries].float() @ keys
            sums[top : top + n_rows] += weights.softmax(dim=-1).sum(dim=1)
    return sums
