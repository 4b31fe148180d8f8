"""What block after block of chunks decided, joined into one selection at the end."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from omnisift.compressors.chunk_batches import PaddedGroups
from omnisift.estimators import Choice
from omnisift.tokens import Selection, TokenStream

Part = tuple[Tensor, Tensor]
"""(places, values)"""


@dataclass
class SelectionBuilder:
    """PositionColumns in the stream and values, block by block. Place ``L`` stands for padding."""

    kept: list[Tensor] = field(default_factory=list)
    """PositionColumns that stay."""
    video: list[Part] = field(default_factory=list)
    """Saliency."""
    audio: list[Part] = field(default_factory=list)
    """Score in (0, 1)."""
    gate: list[Part] = field(default_factory=list)
    bias: list[Part] = field(default_factory=list)
    mixed: list[Part] = field(default_factory=list)
    """Embeddings [N, D] that replace those of the stream."""
    log_prob: list[Part] = field(default_factory=list)
    """(a place of each chunk, the log-probability of its choice)"""

    def choose(self, audio: PaddedGroups, choice: Choice, scored: Tensor | None, embeds: Tensor) -> None:
        """Note what an estimator decided on a block's audio. Rows outside ``scored`` [G] bool keep what they keep."""
        length = len(embeds)
        places = audio.flat(length)
        self.kept.append(places.masked_fill(~choice.keep.flatten(), length))
        places = audio.flat(length, scored)
        if choice.gate is not None:
            self.gate.append((places, choice.gate.flatten()))
        if choice.bias is not None:
            self.bias.append((places, choice.bias.flatten()))
        if choice.mix is not None:
            tokens = audio.take(embeds)
            self.mixed.append((places, (choice.mix.to(tokens.dtype) @ tokens).flatten(0, 1)))
        if choice.log_prob is not None:
            log_prob = choice.log_prob if scored is None else choice.log_prob * scored
            self.log_prob.append((audio.index[:, 0], log_prob))

    def selection(self, stream: TokenStream) -> Selection:
        """Join the blocks."""
        device, length = stream.embeds.device, len(stream)
        keep = torch.cat([stream.chunk < 0, torch.zeros(1, dtype=torch.bool)]).to(device)
        if self.kept:
            keep.index_fill_(0, torch.cat(self.kept), True)
        scores = torch.full((length + 1,), torch.nan, device=device)
        if self.video:
            places, values = _joined(self.video)
            scores.scatter_(0, places, values.float())
        if self.audio:
            scores = scores.scatter(0, *_joined(self.audio))
        keep = keep[:length]
        return Selection(
            keep=keep,
            scores=scores[:length],
            gate=_laid(self.gate, torch.ones_like(scores)),
            bias=_laid(self.bias, torch.zeros_like(scores)),
            embeds=self._merged(stream.embeds, keep),
            log_prob=self._of_rows(stream),
        )

    def _merged(self, embeds: Tensor, keep: Tensor) -> Tensor | None:
        if not self.mixed:
            return None
        padded = torch.cat([embeds, embeds.new_zeros(1, embeds.shape[1])])
        return padded.index_copy(0, *_joined(self.mixed))[:-1][keep]

    def _of_rows(self, stream: TokenStream) -> Tensor | None:
        if not self.log_prob:
            return None
        places, values = _joined(self.log_prob)
        rows = int(stream.sample.max()) + 1
        return values.new_zeros(rows).index_add(0, stream.sample.to(places.device)[places], values)


def _joined(parts: list[Part]) -> Part:
    places, values = zip(*parts, strict=True)
    return torch.cat(places), torch.cat(values)


def _laid(parts: list[Part], base: Tensor) -> Tensor | None:
    """[L]: the values at their places in ``base`` [L + 1]; None where there are none."""
    return base.scatter(0, *_joined(parts))[:-1] if parts else None
