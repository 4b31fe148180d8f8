"""Token merging (ToMe) before the language model: similar tokens of a chunk become one."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.budget import Counts
from omnisift.compressors.base import Compressor
from omnisift.ops.groups import Scope, group
from omnisift.ops.similarity import cosine_between
from omnisift.ops.topk import row_topk
from omnisift.tokens import Selection, TokenStream


class TomeCompressor(Compressor):
    """Bipartite soft matching (ToMe, arXiv 2210.09461, section 3) of video and audio, until the budget is met.

    Windows are `Scope.CHUNK`: the two frames of a chunk, or its audio; their count is the sum of the budget's. A round
    splits a window's tokens alternately into A and B, links each of A with its most similar one of B, and merges the
    best links into B's token, at most half of the window at a time. The kept token has B's place and position.
    Deviations from the paper:

    - it merges inside every block of a ViT by the similarity of attention keys; here there are only embeddings, so
      their cosine decides, and rounds follow each other directly;
    - proportional attention (larger tokens count for more in the softmax) needs the model's attention and is left out;
    - survivors stay in the order of the stream between rounds, so neighbours meet as A and B again; the paper's code
      puts the rest of A before B;
    - of equal cosines the lowest index is taken; they are rounded to about 1e-6 (`omnisift.ops.similarity`).
    """

    name: ClassVar[str] = "tome"
    idea: ClassVar[str] = "merges the most similar tokens of a chunk, pair by pair"
    source: ClassVar[str] = "arXiv 2210.09461"
    reach = 0

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Merge the video and the audio of every chunk. See `Compressor.select`."""
        groups = group(stream, counts, Scope.CHUNK)
        device, embeds = stream.embeds.device, stream.embeds
        keep = torch.ones(len(stream), dtype=torch.bool, device=device)
        indices, means = [], []
        for window in groups.windows(device, width=stream.width):
            slot, size, total = merge(embeds[window.index].float(), window.valid, window.kept)
            keep[window.index[window.valid]] = False
            index = window.index.gather(1, slot)
            survives = (size > 0) & (window.kept > 0).unsqueeze(1)
            keep[index[survives]] = True
            mixed = survives & (size > 1)  # all others are unchanged bit for bit
            indices.append(index[mixed])
            means.append((total[mixed] / size[mixed].unsqueeze(1)).to(embeds.dtype))
        if not any(len(index) for index in indices):
            return Selection(keep=keep)
        rank = torch.cumsum(keep, dim=0) - 1
        return Selection(keep=keep, embeds=embeds[keep].index_copy(0, rank[torch.cat(indices)], torch.cat(means)))


def merge(tokens: Tensor, valid: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Match and merge in rounds until each window has ``kept`` tokens left, or one. One device sync.

    A mean of means weighted by size is a sum over a size, and a cosine ignores the scale, so only sums are carried.

    Args:
        tokens: [G, N, D] float32.
        valid: [G, N] bool, False on padding, which comes last.
        kept: [G] int64.

    Returns:
        Of the M tokens left at most: the column where each one was, [G, M] int64; how many tokens it stands for,
        [G, M] float32 (0 on padding); their sum, [G, M, D].
    """
    size, total = valid.float(), tokens
    slot = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
    left, goal = torch.stack([valid.sum(dim=1), kept.clamp(min=1)]).cpu()
    while bool((left > goal).any()):
        # One round of matching.
        drop = torch.minimum((left - goal).clamp(min=0), left // 2)
        size, total, merged_away = _merge_round(
            size, total, left.to(valid.device, non_blocking=True), drop.to(valid.device, non_blocking=True)
        )
        left = left - drop
        # Survivors move to the front, in order; padding follows them.
        stay = torch.argsort((merged_away | (size == 0)).to(torch.uint8), dim=1, stable=True)[:, : int(left.max())]
        size = size.masked_fill(merged_away, 0).gather(1, stay)
        slot = slot.gather(1, stay)
        total = total.gather(1, stay.unsqueeze(-1).expand(-1, -1, total.shape[-1]))
    return slot, size, total


def _merge_round(size: Tensor, total: Tensor, left: Tensor, drop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Merge the ``drop`` [G] best links of each window; its first ``left`` [G] columns are tokens.

    Returns the new sizes and sums, and which tokens of A were merged into B, [G, N] bool.
    """
    # A and B alternate; link each of A to its most similar token of B.
    a, b = total[:, ::2], total[:, 1::2]
    column = torch.arange(a.shape[1], device=total.device)
    similar = cosine_between(a, b)
    similar.masked_fill_((column[: b.shape[1]] >= (left // 2).unsqueeze(1)).unsqueeze(1), -torch.inf)
    best, into = similar.max(dim=2)
    # The best links are merged.
    best = best.masked_fill(column >= ((left + 1) // 2).unsqueeze(1), -torch.inf)
    merged = row_topk(best, drop)
    # [G, B, A]: a product instead of scattered additions, whose order varies on a GPU.
    share = torch.zeros_like(similar.mT).scatter_(1, into.unsqueeze(1), merged.float().unsqueeze(1))
    size, total = size.clone(), total.clone()
    size[:, 1::2] += torch.bmm(share, size[:, ::2].unsqueeze(-1)).squeeze(-1)
    total[:, 1::2] += torch.bmm(share, a)
    merged_away = torch.zeros_like(size, dtype=torch.bool)
    merged_away[:, ::2] = merged
    return size, total, merged_away
