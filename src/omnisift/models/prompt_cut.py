"""Cut a batch: from which tokens stay to shorter embeddings, positions, masks and labels.

A batch becomes ragged when its rows lose different numbers of tokens, so it is padded again: on the side where it was
padded before, on the left if it was not. Planning is integer work on the CPU; the device only sees the final gathers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from omnisift.tokens import Selection

PAD_POSITION = 1
"""What the host itself writes as rotary id of padding."""
IGNORED = -100
"""The label that PyTorch's cross-entropy leaves out."""


@dataclass(frozen=True)
class Cut:
    """Where each token of the cut batch ``[B, K]`` was in the full one ``[B, S]``."""

    source: Tensor
    """[B, K] int64 on the CPU: index into the flat full batch; padding points at the first token of its row."""
    real: Tensor
    """[B, K] bool on the CPU: False on padding."""
    kept: Tensor
    """[B, S] bool on the CPU: the tokens that stay; False on old padding."""
    was_real: Tensor
    """[B, S] bool on the CPU: not padding before the cut."""

    @classmethod
    def plan(cls, keep: Tensor, real: Tensor) -> Cut:
        """``keep`` and ``real`` (not padding) are [B, S] bool on the CPU. All old padding goes."""
        rows, length = keep.shape
        kept = keep & real
        counts = kept.sum(dim=1)
        width = int(counts.max())
        pad_right = not bool(real[:, -1].all())
        shift = torch.zeros_like(counts) if pad_right else width - counts
        row, column = torch.nonzero(kept, as_tuple=True)
        slot = (torch.cumsum(kept, dim=1) - 1)[row, column] + shift[row]
        first = torch.arange(rows).unsqueeze(1) * length
        source = first.repeat(1, width)
        source[row, slot] = row * length + column
        filled = torch.zeros(rows, width, dtype=torch.bool)
        filled[row, slot] = True
        return cls(source=source, real=filled, kept=kept, was_real=real)

    def followed_by(self, extra: int) -> Cut:
        """The cut of the same prompt with ``extra`` more tokens behind it that all stay."""
        tail = torch.ones(len(self.kept), extra, dtype=torch.bool)
        return Cut.plan(torch.cat([self.kept, tail], dim=1), torch.cat([self.was_real, tail], dim=1))

    @cached_property
    def padded(self) -> bool:
        """Whether any row of the cut batch has padding."""
        return not bool(self.real.all())

    @property
    def width(self) -> int:
        """``K``, the length of the cut batch."""
        return int(self.source.shape[1])

    @cached_property
    def dropped(self) -> Tensor:
        """[B] int64 on the CPU: how many real tokens each row lost."""
        return self.was_real.sum(dim=1) - self.kept.sum(dim=1)

    def embeds(self, full: Tensor, selection: Selection) -> Tensor:
        """[B, K, D] from [B, S, D]: the kept embeddings, or what the method put in their place, times its gate."""
        index = self.source.flatten().to(full.device)
        if selection.embeds is None:
            cut = full.flatten(0, 1).index_select(0, index)
        else:
            # Merged embeddings come in the order of the kept tokens, so a token's row is its rank among them.
            rank = torch.cumsum(selection.keep, dim=0) - 1
            cut = selection.embeds.to(full.dtype).index_select(0, rank.to(index.device)[index])
        if selection.gate is not None:
            cut = cut * selection.gate[index].to(cut.dtype).unsqueeze(-1)
        return cut.view(*self.source.shape, -1)

    def widened(self, cut: Tensor) -> Tensor:
        """[B, S, D] from [B, K, D]: every token at its old place, zeros where one was dropped."""
        rows, length = self.kept.shape
        wide = cut.new_zeros(rows * length, cut.shape[-1])
        real = self.real.flatten()
        place, token = self.source.flatten()[real], torch.nonzero(real, as_tuple=True)[0]
        wide[place.to(cut.device)] = cut.flatten(0, 1)[token.to(cut.device)]
        return wide.view(rows, length, -1)

    def positions(self, full: Tensor) -> Tensor:
        """[R, B, K] from [R, B, S], both on the CPU. Kept tokens keep their rotary ids.

        With R = 4 the first row counts text positions. The host reads each gap in it as the border between packed
        sequences, so it is numbered again without gaps.
        """
        cut = full.flatten(1)[:, self.source.flatten()].view(-1, *self.source.shape)
        cut = cut.masked_fill(~self.real, PAD_POSITION)
        if full.shape[0] == 4:
            cut[0] = self._without_gaps(full[0])
        return cut

    def labels(self, full: Tensor) -> Tensor:
        """[B, K] from [B, S]; padding is ignored by the loss."""
        cut = full.flatten()[self.source.to(full.device)]
        return cut.masked_fill(~self.real.to(full.device), IGNORED)

    def mask(self, device: torch.device) -> Tensor:
        """[B, K] int64: 1 on tokens, 0 on padding."""
        return self.real.to(device=device, dtype=torch.int64)

    def boundaries(self, full: Tensor) -> Tensor:
        """Cut the cumulative lengths of packed sequences ([n + 1] int32, from 0 to S; one row only)."""
        kept = torch.zeros(int(full.max()) + 1, dtype=torch.int64)
        kept[self.source.flatten() + 1] = 1
        return torch.cumsum(kept, dim=0)[full.long().cpu()].to(device=full.device, dtype=full.dtype)

    def _without_gaps(self, text: Tensor) -> Tensor:
        """[B, K]: 0, 1, 2 ... inside each packed sequence of the row, 0 on padding."""
        breaks = torch.ones_like(text, dtype=torch.bool)
        breaks[:, 1:] = text[:, 1:] != text[:, :-1] + 1
        sequence = torch.cumsum(breaks, dim=1).flatten()[self.source].masked_fill(~self.real, -1)
        starts = torch.ones_like(sequence, dtype=torch.bool)
        starts[:, 1:] = sequence[:, 1:] != sequence[:, :-1]
        place = torch.arange(self.width).expand_as(sequence)
        start = torch.cummax(place.masked_fill(~starts, 0), dim=1).values
        return (place - start).masked_fill(~self.real, 0)
