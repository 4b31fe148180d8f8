"""Uniform selection: evenly spaced tokens of every frame and of every chunk's audio, picked or pooled."""

from __future__ import annotations

from typing import ClassVar

import torch

from omnisift.budget import Budget, Counts
from omnisift.compressors.base import Compressor
from omnisift.ops.groups import group
from omnisift.ops.segments import averaged
from omnisift.tokens import Selection, TokenStream


class UniformCompressor(Compressor):
    """Keep k of n tokens at equal distances, each in the middle of its share. Reads no embedding.

    Args:
        budget: the fraction of tokens kept; a number is the overall ratio.
        mode: ``stride`` keeps the tokens as they are. ``pool`` replaces each by the mean of its share: for audio, of a
            stretch of time, which beats picking (arXiv 2511.20973); for video, of a run of tokens in reading order. A
            kept token keeps its position.
    """

    name: ClassVar[str] = "uniform"
    idea: ClassVar[str] = "keeps evenly spaced tokens of every frame and chunk, or pools between them"
    source: ClassVar[str] = "baseline of this project"
    reach = 0

    def __init__(self, budget: Budget | float, mode: str = "stride") -> None:
        super().__init__(budget)
        self.check_choice("mode", mode, ("stride", "pool"))
        self.mode = mode

    @property
    def label(self) -> str:
        """``uniform`` or ``uniform-pool``."""
        return self.name if self.mode == "stride" else f"{self.name}-{self.mode}"

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Keep evenly spaced tokens of every frame and of every chunk's audio. See `Compressor.select`."""
        # Index i of each token among the n of its group, of which k are kept.
        groups = group(stream, counts)
        inside = torch.nonzero(groups.group >= 0, as_tuple=True)[0]
        order = inside[torch.sort(groups.group[inside], stable=True).indices]
        number, size = groups.group[order], groups.size
        i = torch.arange(len(order)) - (torch.cumsum(size, dim=0) - size)[number]
        n, k = size[number], groups.kept[number]
        # Token i is kept where i k, shifted by half a step, passes a multiple of n: k times in all.
        is_kept = (i * k + (n + 2 * k - 1) // 2) % n < k
        keep = torch.ones(len(stream), dtype=torch.bool)
        keep[order] = is_kept
        device = stream.embeds.device
        if self.mode == "stride":
            return Selection(keep=keep.to(device, non_blocking=True))
        # The share of the j-th kept token is the tokens with floor(i k / n) = j, itself included.
        kept = order[is_kept]
        first = torch.cumsum(groups.kept, dim=0) - groups.kept
        into = torch.full((len(stream),), -1)
        has_kept = k > 0
        into[order[has_kept]] = kept[(first[number] + i * k // n)[has_kept]]
        keep, into = keep.to(device, non_blocking=True), into.to(device, non_blocking=True)
        return Selection(keep=keep, embeds=averaged(stream.embeds, keep, into))
