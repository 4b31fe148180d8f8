"""VisionZip: the tokens that the encoder attends to most, and a few anchors into which the rest is merged."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.budget import Budget, Counts
from omnisift.compressors.attended import NEEDS, encoder_attention
from omnisift.compressors.base import Compressor
from omnisift.ops.contextual_anchors import anchor_count, evenly_among
from omnisift.ops.groups import Groups, Window, group
from omnisift.ops.segments import averaged
from omnisift.tokens import Selection, TokenStream


class VisionZipCompressor(Compressor):
    """VisionZip for video and audio (CVPR'25, arXiv 2412.04467; "-om" as in SEATS, arXiv 2605.20035).

    Windows are one frame and one chunk's audio, each with its own count K of n. The K - c tokens that receive most
    attention in the encoder's last layer are kept as they are ("dominant"); of the others, c at equal distances become
    anchors ("contextual"), and every remaining token joins its most similar anchor. An anchor becomes itself PLUS the
    mean of its members: a sum, as published, so its norm grows. An anchor without members is unchanged.

    Deviations: c is rounded, and at most K - 1, so that small budgets keep something dominant. Similarity is that of
    the language model's input embeddings; published are the encoder's keys, which no adapter supplies. The encoders
    have no class token: attention is what each token receives from its window.

    Args:
        budget: the fraction of tokens kept; a number is the overall ratio.
        contextual: c as a share of n, in [0, 1).
    """

    name: ClassVar[str] = "visionzip"
    idea: ClassVar[str] = "keeps the most attended tokens, merges the rest into evenly spaced anchors"
    source: ClassVar[str] = "arXiv 2412.04467"
    needs = NEEDS

    def __init__(self, budget: Budget | float, contextual: float = 0.05) -> None:
        super().__init__(budget)
        self.check_number("contextual", contextual, 0, 1, below=True)
        self.contextual = float(contextual)

    @property
    def label(self) -> str:
        """``visionzip``, with the share of anchors where it is not the default."""
        return self.name if self.contextual == 0.05 else f"{self.name}-c{self.contextual:g}"

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Select dominant tokens and anchors, and merge the rest into the anchors. See `Compressor.select`."""
        attention = encoder_attention(stream)
        groups = group(stream, counts)
        # Dominant tokens by attention, evenly spaced anchors among the others.
        anchors = anchor_count(groups.size, groups.kept, self.contextual)
        dominant = replace(groups, kept=groups.kept - anchors).highest(attention)
        anchor = evenly_among(groups, ~dominant, anchors)
        # The rest is added to the anchors.
        into = _nearest_anchor(stream.embeds, groups, dominant | anchor, anchor, anchors)
        keep = dominant | anchor
        if bool((groups.kept == groups.size).all()):
            return Selection(keep=keep, scores=attention)
        return Selection(keep=keep, scores=attention, embeds=add_members(stream.embeds, keep, into))


def add_members(embeds: Tensor, keep: Tensor, into: Tensor) -> Tensor:
    """Add to each kept token the mean of its members.

    Args:
        embeds: [L, D].
        keep: [L] bool.
        into: [L] int64: index of the kept token that each dropped one joins, -1 for none.

    Returns:
        [K, D]; tokens without members are unchanged.
    """
    half = averaged(embeds, keep, into, self_weight=0.5)
    rank = torch.cumsum(keep, dim=0) - 1
    has_members = torch.zeros(len(half), dtype=torch.bool, device=embeds.device)
    has_members[rank[into[~keep & (into >= 0)]]] = True
    # Twice the half of token + mean: exact in floating point.
    return torch.where(has_members[:, None], 2 * half, half)


def _nearest_anchor(embeds: Tensor, groups: Groups, keep: Tensor, anchor: Tensor, count: Tensor) -> Tensor:
    """Index of the anchor that each dropped token joins, [L] int64 on the device; -1 for others, or without anchors."""
    into = torch.full((len(embeds),), -1, device=embeds.device)
    if not bool((count > 0).any()):
        return into
    for window in replace(groups, kept=count).windows(embeds.device, width=embeds.shape[1]):
        if window.max_kept:
            joins = window.valid & ~keep[window.index] & (window.kept > 0)[:, None]
            nearest = _nearest_in_window(embeds, window, anchor)
            into[window.index[joins]] = nearest[joins]
    return into


def _nearest_in_window(embeds: Tensor, window: Window, anchor: Tensor) -> Tensor:
    """Index of each token's most similar anchor, [G, N] int64; ``window.kept`` counts the anchors."""
    is_anchor = window.valid & anchor[window.index]
    # Columns of the anchors, in order. Groups with fewer than the largest number are filled with others, masked below.
    column = torch.sort((~is_anchor).byte(), dim=1, stable=True).indices[:, : window.max_kept]
    real = torch.arange(window.max_kept, device=embeds.device) < window.kept[:, None]
    unit = F.normalize(embeds[window.index].float(), dim=-1)
    anchors = torch.gather(unit, 1, column[..., None].expand(-1, -1, unit.shape[-1]))
    cosine = torch.bmm(unit, anchors.transpose(1, 2)).masked_fill(~real[:, None], -torch.inf)
    return torch.gather(window.index, 1, torch.gather(column, 1, cosine.argmax(dim=2)))
