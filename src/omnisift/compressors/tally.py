"""What block after block of chunks decided, joined into one selection at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from omnisift.straight_through import topk_mask
from omnisift.tokens import Selection, TokenStream


@dataclass
class Tally:
    """Places in the stream and values, block by block. Place ``L`` stands for padding."""

    kept: list[Tensor] = field(default_factory=list)
    """Places that stay."""
    video: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """(places, saliency)"""
    audio: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """(places, score in (0, 1))"""

    def selection(self, stream: TokenStream, *, gated: bool) -> Selection:
        """Join the blocks; with ``gated`` the audio gets the straight-through mask."""
        device, length = stream.embeds.device, len(stream)
        keep = torch.cat([stream.chunk < 0, torch.zeros(1, dtype=torch.bool)]).to(device)
        if self.kept:
            keep.index_fill_(0, torch.cat(self.kept), True)
        scores = torch.full((length + 1,), torch.nan, device=device)
        gate = None
        if self.video:
            places, values = (torch.cat(part) for part in zip(*self.video, strict=True))
            scores.scatter_(0, places, values.float())
        if self.audio:
            places, values = (torch.cat(part) for part in zip(*self.audio, strict=True))
            scores = scores.scatter(0, places, values)
            if gated:
                gate = torch.ones_like(scores).scatter(0, places, topk_mask(values, keep[places]))[:length]
        return Selection(keep=keep[:length], scores=scores[:length], gate=gate)
