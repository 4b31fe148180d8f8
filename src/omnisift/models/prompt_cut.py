"""Cut a batch of prompts: shorter embeddings, positions, masks and labels from a mask of kept tokens.

Rows that lose different numbers of tokens make the batch ragged, so it is padded again: on the side where it was padded
before, on the left if it was not. Planning is integer work on the CPU; the device only runs the final gathers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from omnisift.errors import CompressorError
from omnisift.tokens import Selection, TokenStream

PAD_POSITION = 1
"""Rotary position that the host itself writes on padding."""
IGNORE_INDEX = -100
"""Label that PyTorch's cross-entropy leaves out."""


@dataclass(frozen=True)
class PromptCut:
    """Where each token of the cut batch ``[B, K]`` was in the full one ``[B, S]``. All tensors are on the CPU."""

    source: Tensor
    """[B, K] int64: index into the flat full batch; padding points at the first token of its row."""
    mask: Tensor
    """[B, K] bool: False on padding."""
    kept: Tensor
    """[B, S] bool: the tokens that are kept; False on old padding."""
    full_mask: Tensor
    """[B, S] bool: False on padding, before the cut."""

    @classmethod
    def plan(cls, keep: Tensor, full_mask: Tensor, order: Tensor | None = None) -> PromptCut:
        """Plan a cut that keeps ``keep`` and drops all old padding.

        Args:
            keep: [B, S] bool on the CPU.
            full_mask: [B, S] bool on the CPU, False on padding.
            order: [B, S] int64 on the CPU: the old column of each token of a new order; None leaves the order as it is.
        """
        rows, length = keep.shape
        kept = keep & full_mask
        counts = kept.sum(dim=1)
        width = int(counts.max())
        # Pad again on the old side; without old padding on the left, where decoding needs it.
        pad_right = not bool(full_mask[:, -1].all())
        shift = torch.zeros_like(counts) if pad_right else width - counts
        # Column of each kept token in the cut batch: its rank among the kept tokens of its row, shifted by padding.
        ordered = kept if order is None else kept.gather(1, order)
        row, column = torch.nonzero(ordered, as_tuple=True)
        slot = (torch.cumsum(ordered, dim=1) - 1)[row, column] + shift[row]
        # Padding reads the first token of its row, any valid index: the mask hides it.
        first = torch.arange(rows).unsqueeze(1) * length
        source = first.repeat(1, width)
        source[row, slot] = row * length + (column if order is None else order[row, column])
        mask = torch.zeros(rows, width, dtype=torch.bool)
        mask[row, slot] = True
        return cls(source=source, mask=mask, kept=kept, full_mask=full_mask)

    @cached_property
    def padded(self) -> bool:
        """Whether any row of the cut batch has padding."""
        return not bool(self.mask.all())

    @property
    def width(self) -> int:
        """``K``, the length of the cut batch."""
        return int(self.source.shape[1])

    @cached_property
    def dropped(self) -> Tensor:
        """[B] int64: number of tokens that each row lost, padding not counted."""
        return self.full_mask.sum(dim=1) - self.kept.sum(dim=1)

    def inputs_embeds(self, full: Tensor, selection: Selection) -> Tensor:
        """Cut embeddings, replaced by those that the method merged and multiplied by its gate.

        Args:
            full: [B, S, D] on any device.
            selection: the compressor's decision on the flat batch.

        Returns:
            [B, K, D] on the device of ``full``.
        """
        index = self.source.flatten().to(full.device, non_blocking=True)
        # Gather the kept tokens, or the embeddings that the method merged for them.
        if selection.embeds is None:
            cut = full.flatten(0, 1).index_select(0, index)
        else:
            # Merged embeddings come in the order of the kept tokens, so a token's row is its rank among them.
            rank = torch.cumsum(selection.keep, dim=0) - 1
            cut = selection.embeds.to(full.dtype).index_select(0, rank.to(index.device, non_blocking=True)[index])
        # The straight-through gate is exactly 1 on kept tokens: it only carries the gradient.
        if selection.gate is not None:
            cut = cut * selection.gate[index].to(cut.dtype).unsqueeze(-1)
        return cut.view(*self.source.shape, -1)

    def restore_length(self, cut: Tensor) -> Tensor:
        """[B, S, D] from [B, K, D]: every token at its old index, zeros where one was dropped."""
        rows, length = self.kept.shape
        full = cut.new_zeros(rows * length, cut.shape[-1])
        mask = self.mask.flatten()
        target, token = self.source.flatten()[mask], torch.nonzero(mask, as_tuple=True)[0]
        full[target.to(cut.device, non_blocking=True)] = cut.flatten(0, 1)[token.to(cut.device, non_blocking=True)]
        return full.view(rows, length, -1)

    def position_ids(self, full: Tensor) -> Tensor:
        """Cut rotary positions, which kept tokens retain.

        With R = 4 the first row counts text positions. The host reads each gap in it as the start of another packed
        sequence, so that row is numbered again without gaps.

        Args:
            full: [R, B, S] on the CPU.

        Returns:
            [R, B, K] on the CPU, in the dtype of ``full``.
        """
        cut = full.flatten(1)[:, self.source.flatten()].view(-1, *self.source.shape)
        cut = cut.masked_fill(~self.mask, PAD_POSITION)
        if full.shape[0] == 4:
            cut[0] = self._without_gaps(full[0])
        return cut

    def labels(self, full: Tensor) -> Tensor:
        """[B, K] from [B, S]: cut labels, with `IGNORE_INDEX` on padding."""
        cut = full.flatten()[self.source.to(full.device, non_blocking=True)]
        return cut.masked_fill(~self.mask.to(full.device, non_blocking=True), IGNORE_INDEX)

    def attention_mask(self, device: torch.device) -> Tensor:
        """[B, K] int64 on ``device``: 1 on tokens, 0 on padding."""
        return self.mask.to(device=device, dtype=torch.int64, non_blocking=True)

    def cu_seq_lens(self, full: Tensor) -> Tensor:
        """Cut the cumulative lengths of packed sequences ([n + 1] int32, from 0 to S; one row only)."""
        # Entry i counts the kept tokens before i, so each boundary moves to its count.
        kept = torch.zeros(int(full.max()) + 1, dtype=torch.int64)
        kept[self.source.flatten() + 1] = 1
        return torch.cumsum(kept, dim=0)[full.long().cpu()].to(device=full.device, dtype=full.dtype, non_blocking=True)

    def _without_gaps(self, text: Tensor) -> Tensor:
        """[B, K]: 0, 1, 2 ... inside each packed sequence of the row, 0 on padding."""
        # A packed sequence starts wherever the full row does not count on by one.
        breaks = torch.ones_like(text, dtype=torch.bool)
        breaks[:, 1:] = text[:, 1:] != text[:, :-1] + 1
        sequence = torch.cumsum(breaks, dim=1).flatten()[self.source].masked_fill(~self.mask, -1)
        # Count from the first kept token of each sequence.
        starts = torch.ones_like(sequence, dtype=torch.bool)
        starts[:, 1:] = sequence[:, 1:] != sequence[:, :-1]
        column = torch.arange(self.width).expand_as(sequence)
        start = torch.cummax(column.masked_fill(~starts, 0), dim=1).values
        return (column - start).masked_fill(~self.mask, 0)


def check_selection(selection: Selection, stream: TokenStream) -> Tensor:
    """``keep`` on the CPU. Raises `CompressorError` if a method broke the contract of `Selection`."""
    if not isinstance(selection, Selection):
        raise CompressorError(f"select must return a Selection, got {type(selection).__name__}: fix the compressor")
    keep = selection.keep
    if keep.shape != (len(stream),) or keep.dtype != torch.bool:
        raise CompressorError(
            f"keep must be bool [{len(stream)}], got {keep.dtype} {list(keep.shape)}: fix the compressor"
        )
    keep = keep.cpu()
    if not bool(keep[stream.chunk < 0].all()):
        raise CompressorError("the compressor dropped tokens outside chunks (text, images, plain audio): keep them")
    if selection.embeds is not None and len(selection.embeds) != int(keep.sum()):
        raise CompressorError(
            f"{len(selection.embeds)} merged embeddings for {int(keep.sum())} kept tokens: give one each"
        )
    return keep
