"""VisionZip: what the encoder looks at most, and a few anchors that take in the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.budget import Budget, Counts
from omnisift.compressors.anchors import anchor_count, checked_share, evenly_among
from omnisift.compressors.attended import NEEDS, encoder_attention
from omnisift.compressors.base import Compressor
from omnisift.compressors.groups import CELLS, Groups, Window, group
from omnisift.compressors.merging import averaged
from omnisift.tokens import Selection, TokenStream


class VisionZipCompressor(Compressor):
    """VisionZip for picture and sound (CVPR'25, arXiv 2412.04467; "-om" as in SEATS, arXiv 2605.20035).

    Windows are one frame and one chunk's sound, each cut to its own count K of n. The K - c tokens that received most
    attention in the encoder's last layer stay as they are ("dominant"); of the others, c at equal distances become
    anchors ("contextual"), and every remaining token joins its most cosine-similar anchor. An anchor becomes itself
    PLUS the mean of its members: a sum, as published, so its norm grows; an anchor without members stays.

    Deviations. c is ``contextual`` (5 %) of n, rounded, but at most K - 1, so that small budgets keep something
    dominant. Similarity is that of the language model's input embeddings; published are the encoder's keys, which no
    adapter supplies. The encoders have no class token: attention is what each token received from all of its window.
    """

    name: ClassVar[str] = "visionzip"
    idea: ClassVar[str] = "keeps the most attended tokens and sums the rest into even anchors"
    source: ClassVar[str] = "arXiv 2412.04467"
    needs = NEEDS

    def __init__(self, budget: Budget | float, contextual: float = 0.05) -> None:
        super().__init__(budget)
        self.contextual = checked_share(self.name, contextual)

    @property
    def label(self) -> str:
        """``visionzip``, with the share of anchors where it is not the default."""
        return self.name if self.contextual == 0.05 else f"{self.name}-c{self.contextual:g}"

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Dominant tokens by attention, anchors among the others, the rest summed into these."""
        attention = encoder_attention(stream)
        groups = group(stream, counts)
        anchors = anchor_count(groups.size, groups.kept, self.contextual)
        dominant = replace(groups, kept=groups.kept - anchors).highest(attention)
        anchor = evenly_among(groups, ~dominant, anchors)
        into = _nearest_anchor(stream.embeds, groups, dominant | anchor, anchor, anchors)
        keep = dominant | anchor
        if bool((groups.kept == groups.size).all()):
            return Selection(keep=keep, scores=attention)
        return Selection(keep=keep, scores=attention, embeds=summed(stream.embeds, keep, into))


def summed(embeds: Tensor, keep: Tensor, into: Tensor) -> Tensor:
    """[K, D]: each kept token plus the mean of those that joined it (arguments as of `averaged`)."""
    half = averaged(embeds, keep, into, own=0.5)
    rank = torch.cumsum(keep, dim=0) - 1
    touched = torch.zeros(len(half), dtype=torch.bool, device=embeds.device)
    touched[rank[into[~keep & (into >= 0)]]] = True
    # Half of kept token + mean, doubled: exact in floating point.
    return torch.where(touched[:, None], 2 * half, half)


def _nearest_anchor(embeds: Tensor, groups: Groups, keep: Tensor, anchor: Tensor, count: Tensor) -> Tensor:
    """[L] int64 on the device: place of the anchor that each dropped token joins; -1 for others and without anchors."""
    into = torch.full((len(embeds),), -1, device=embeds.device)
    if not bool((count > 0).any()):
        return into
    widest = int(groups.size.max())
    # Neither the embeddings of a block nor its similarities are more than CELLS numbers (or one window's).
    cells = CELLS // max(embeds.shape[1], widest)
    for window in replace(groups, kept=count).windows(embeds.device, power=1, cells=max(1, cells)):
        if window.most:
            joins = window.valid & ~keep[window.place] & (window.kept > 0)[:, None]
            nearest = _nearest_in_window(embeds, window, anchor)
            into[window.place[joins]] = nearest[joins]
    return into


def _nearest_in_window(embeds: Tensor, window: Window, anchor: Tensor) -> Tensor:
    """[G, N] int64 on the device: place of each token's most similar anchor; ``window.kept`` counts the anchors."""
    is_anchor = window.valid & anchor[window.place]
    # Anchors first, in order: their columns. Groups with fewer than ``most`` are filled up with others, masked below.
    column = torch.sort((~is_anchor).byte(), dim=1, stable=True).indices[:, : window.most]
    real = torch.arange(window.most, device=embeds.device) < window.kept[:, None]
    unit = F.normalize(embeds[window.place].float(), dim=-1)
    chosen = torch.gather(unit, 1, column[..., None].expand(-1, -1, unit.shape[-1]))
    cosine = torch.bmm(unit, chosen.transpose(1, 2)).masked_fill(~real[:, None], -torch.inf)
    return torch.gather(window.place, 1, torch.gather(column, 1, cosine.argmax(dim=2)))
