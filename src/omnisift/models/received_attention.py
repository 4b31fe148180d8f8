"""How much attention each step of an encoder receives, without ever holding a full attention matrix.

    s_j = mean over heads of (sum over queries i of softmax over j of (q_i k_j scale))

This is the column sum of the softmax, the saliency that OmniZip (for sound), SEATS and VisionZip (for both) read from
the last layer of an encoder. The sum runs over blocks: ten minutes of sound at 50 Hz would need 36 GB for the matrix in
bfloat16, a block needs 64 MiB in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

BLOCK = 2**24
"""Attention weights held at once (a single query's row may be longer)."""


@torch.no_grad()
def received(query: Tensor, key: Tensor, scale: float, lengths: Sequence[int], block: int = BLOCK) -> Tensor:
    """[T] float32, at least 0: attention received by each step, whose sum over a sequence is the sequence's length.

    ``query`` and ``key`` [H, T, d] of any float type hold sequences of ``lengths`` (which sum to T) one after another;
    each attends to itself only. The softmax is taken in float32 whatever the model's type, under autocast too.
    """
    if sum(lengths) != query.shape[1]:
        raise ValueError(f"lengths must sum to the {query.shape[1]} steps of query, got {sum(lengths)}")
    found = query.new_zeros(query.shape[1], dtype=torch.float32)
    start = 0
    with torch.autocast(query.device.type, enabled=False):
        # Sequences of equal length go together: an encoder has hundreds of windows.
        for length, run in groupby(length for length in lengths if length):
            stop = start + length * len(list(run))
            queries, keys = (side[:, start:stop].reshape(-1, length, side.shape[-1]) for side in (query, key))
            sums = _column_sums(queries, keys, scale, block)
            found[start:stop] = sums.view(len(query), -1).mean(dim=0)
            start = stop
    return found


def _column_sums(query: Tensor, key: Tensor, scale: float, block: int) -> Tensor:
    """[N, t] float32 from [N, t, d]: the softmax over keys, summed over queries, some rows and queries at a time."""
    rows, length, _ = query.shape
    step = min(length, max(1, block // length))
    height = max(1, block // (step * length))
    sums = query.new_zeros(rows, length, dtype=torch.float32)
    for top in range(0, rows, height):
        keys = (key[top : top + height].float() * scale).transpose(1, 2)
        for first in range(0, length, step):
            weights = query[top : top + height, first : first + step].float() @ keys
            sums[top : top + height] += weights.softmax(dim=-1).sum(dim=1)
    return sums
