"""Token merging (ToMe) before the language model: alike tokens of a chunk become one."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.budget import Counts
from omnisift.compressors.base import Compressor
from omnisift.compressors.cosine import cosine_between
from omnisift.compressors.groups import CELLS, Scope, group
from omnisift.tokens import Selection, TokenStream


class TomeCompressor(Compressor):
    """Bipartite soft matching (ToMe, arXiv 2210.09461, section 3) of picture and sound, until the budget is met.

    Windows are `Scope.CHUNK`: the two frames of a chunk, or the sound of its two seconds; their count is the sum of
    the budget's. A round splits a window's tokens by turns into A and B, links each of A with its most similar one of
    B, and merges the best links into B's token, at most half of the window at a time. The kept slot, its place and
    position, is B's. Deviations from the paper:

    - it merges inside every block of a ViT by the similarity of attention keys; here there are only embeddings, so
      their cosine decides, and rounds follow each other directly;
    - proportional attention (larger tokens count for more in the softmax) needs the model's attention: not done;
    - survivors stay in the order of the stream between rounds, so neighbours meet as A and B again; the paper's code
      puts the rest of A before B;
    - ties take the lowest index; cosines are rounded to about 1e-6 (`omnisift.compressors.cosine`).
    """

    name: ClassVar[str] = "tome"
    idea: ClassVar[str] = "merges the most alike tokens of a chunk, pair by pair"
    source: ClassVar[str] = "arXiv 2210.09461"

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Merge every chunk's picture and every chunk's sound."""
        groups = group(stream, counts, Scope.CHUNK)
        device, embeds = stream.embeds.device, stream.embeds
        keep = torch.ones(len(stream), dtype=torch.bool, device=device)
        places, means = [], []
        # Neither the tokens [G, N, D] nor their similarities of a block may be too many.
        row = max(1, stream.width, int(groups.size.max()) if len(groups.size) else 0)
        for window in groups.windows(device, power=1, cells=CELLS // row):
            slot, size, total = merge(embeds[window.place].float(), window.valid, window.kept)
            keep[window.place[window.valid]] = False
            place = window.place.gather(1, slot)
            alive = (size > 0) & (window.kept > 0).unsqueeze(1)
            keep[place[alive]] = True
            mixed = alive & (size > 1)  # all others stay bit for bit
            places.append(place[mixed])
            means.append((total[mixed] / size[mixed].unsqueeze(1)).to(embeds.dtype))
        if not places or not any(len(some) for some in places):
            return Selection(keep=keep)
        rank = torch.cumsum(keep, dim=0) - 1
        return Selection(keep=keep, embeds=embeds[keep].index_copy(0, rank[torch.cat(places)], torch.cat(means)))


def merge(tokens: Tensor, valid: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rounds of matching until each window has ``kept`` tokens left, or one.

    ``tokens`` [G, N, D] float32, ``valid`` [G, N] bool (padding last), ``kept`` [G] int64. Gives of the M tokens left
    at most: slot [G, M] int64 (the column where it was), size [G, M] float32 (how many it stands for; 0 on padding),
    total [G, M, D] (their sum). A mean of means weighted by size is a sum over a size, and a cosine does not feel the
    scale, so sums are all that is carried. One device sync.
    """
    size, total = valid.float(), tokens
    slot = torch.arange(valid.shape[1], device=valid.device).expand_as(valid)
    left, goal = torch.stack([valid.sum(dim=1), kept.clamp(min=1)]).cpu()
    while bool((left > goal).any()):
        drop = torch.minimum((left - goal).clamp(min=0), left // 2)
        size, total, gone = _join(size, total, left.to(valid.device), drop.to(valid.device))
        left = left - drop
        # Survivors move up, in order; what is behind them is padding.
        stay = torch.argsort((gone | (size == 0)).to(torch.uint8), dim=1, stable=True)[:, : int(left.max())]
        size = size.masked_fill(gone, 0).gather(1, stay)
        slot = slot.gather(1, stay)
        total = total.gather(1, stay.unsqueeze(-1).expand(-1, -1, total.shape[-1]))
    return slot, size, total


def _join(size: Tensor, total: Tensor, left: Tensor, drop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One round: the ``drop`` [G] best links of each window are added up in B. Gives sizes and sums, and which tokens
    of A went away [G, N] bool; ``left`` [G] int64: tokens before the round, in the first columns."""
    ours, theirs = total[:, ::2], total[:, 1::2]
    column = torch.arange(ours.shape[1], device=total.device)
    similar = cosine_between(ours, theirs)
    similar.masked_fill_((column[: theirs.shape[1]] >= (left // 2).unsqueeze(1)).unsqueeze(1), -torch.inf)
    best, into = similar.max(dim=2)
    best = best.masked_fill(column >= ((left + 1) // 2).unsqueeze(1), -torch.inf)
    rank = torch.argsort(torch.argsort(best, dim=1, descending=True, stable=True), dim=1)
    merged = rank < drop.unsqueeze(1)
    # [G, B, A]: a product instead of scattered additions, whose order varies on a GPU.
    share = torch.zeros_like(similar.mT).scatter_(1, into.unsqueeze(1), merged.float().unsqueeze(1))
    size, total = size.clone(), total.clone()
    size[:, 1::2] += torch.bmm(share, size[:, ::2].unsqueeze(-1)).squeeze(-1)
    total[:, 1::2] += torch.bmm(share, ours)
    gone = torch.zeros_like(size, dtype=torch.bool)
    gone[:, ::2] = merged
    return size, total, gone
