"""Uniform selection: evenly spaced tokens of every frame and of every chunk's audio."""

from __future__ import annotations

from typing import ClassVar

import torch

from omnisift.budget import Counts
from omnisift.chunks import segment_of
from omnisift.compressors.base import Compressor
from omnisift.tokens import Selection, TokenStream


class UniformCompressor(Compressor):
    """Keep k of n tokens at equal distances, each in the middle of its share. Looks at no value."""

    name: ClassVar[str] = "uniform"

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Token i of n stays where ``i k``, shifted by half a step, passes a multiple of n: k times."""
        segment = segment_of(stream)
        inside = torch.nonzero(segment >= 0, as_tuple=True)[0]
        order = inside[torch.sort(segment[inside], stable=True).indices]
        ordered = segment[order]
        kept = counts.by_segment()
        size = torch.bincount(ordered, minlength=len(kept))
        i = torch.arange(len(order)) - (torch.cumsum(size, dim=0) - size)[ordered]
        n, k = size[ordered], kept[ordered]
        keep = torch.ones(len(stream), dtype=torch.bool)
        keep[order] = (i * k + (n + 2 * k - 1) // 2) % n < k
        return Selection(keep=keep.to(stream.embeds.device))
