"""Uniform selection: evenly spaced tokens of every frame and of every chunk's audio, picked or pooled."""

from __future__ import annotations

from typing import ClassVar

import torch

from omnisift.budget import Budget, Counts
from omnisift.compressors.base import Compressor
from omnisift.compressors.groups import group
from omnisift.compressors.merging import averaged
from omnisift.errors import CompressorError
from omnisift.tokens import Selection, TokenStream


class UniformCompressor(Compressor):
    """Keep k of n tokens at equal distances, each in the middle of its share. AnchorAttention at no value.

    With ``mode="pool"`` each kept token becomes the mean of its share: for sound, of a stretch of time, which beats
    picking (arXiv 2511.20973); for the picture, of a run of tokens in reading order. A kept token keeps its position.
    """

    name: ClassVar[str] = "uniform"
    idea: ClassVar[str] = "keeps tokens at equal distances in every frame and chunk, or pools between"
    source: ClassVar[str] = "baseline of this project"

    def __init__(self, budget: Budget | float, mode: str = "stride") -> None:
        super().__init__(budget)
        if mode not in ("stride", "pool"):
            raise CompressorError(f"mode of 'uniform' is stride or pool, got {mode!r}")
        self.mode = mode

    @property
    def label(self) -> str:
        """``uniform`` or ``uniform-pool``."""
        return self.name if self.mode == "stride" else f"{self.name}-{self.mode}"

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Token i of n stays where ``i k``, shifted by half a step, passes a multiple of n: k times."""
        groups = group(stream, counts)
        inside = torch.nonzero(groups.index >= 0, as_tuple=True)[0]
        order = inside[torch.sort(groups.index[inside], stable=True).indices]
        ordered, size = groups.index[order], groups.size
        i = torch.arange(len(order)) - (torch.cumsum(size, dim=0) - size)[ordered]
        n, k = size[ordered], groups.kept[ordered]
        stays = (i * k + (n + 2 * k - 1) // 2) % n < k
        keep = torch.ones(len(stream), dtype=torch.bool)
        keep[order] = stays
        device = stream.embeds.device
        if self.mode == "stride":
            return Selection(keep=keep.to(device))
        # The share of the j-th kept token holds the tokens with floor(i k / n) = j: it lies among them.
        kept = order[stays]
        first = torch.cumsum(groups.kept, dim=0) - groups.kept
        into = torch.full((len(stream),), -1)
        some = k > 0
        into[order[some]] = kept[(first[ordered] + i * k // n)[some]]
        keep, into = keep.to(device), into.to(device)
        return Selection(keep=keep, embeds=averaged(stream.embeds, keep, into))
