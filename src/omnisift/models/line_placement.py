"""Where lines of text with times go in a prompt (`omnisift.models.layout.PromptLines` says which tokens they are).

A host reads the lines as text behind the clip, so that it finds its video and audio as in any other prompt. Between the
host and its language model, the tokens of a line are moved behind the last video or audio token of the chunk in which
the line begins, and get rotary positions of that time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from omnisift.models.adapter import Adapter, Prompt
from omnisift.tokens import Modality, TokenStream


@dataclass(frozen=True)
class Placement:
    """Where the tokens of a batch go. All on the CPU."""

    order: Tensor
    """[B, S] int64: the column in which each token of the new order was."""
    position_ids: Tensor
    """[R, B, S]: rotary positions of the tokens, by the column in which they were."""
    shift: Tensor
    """[B]: by how much the text behind the lines is at lower positions than those of the host."""


def place_lines(stream: TokenStream, prompt: Prompt, position_ids: Tensor, adapter: Adapter) -> Placement:
    """Find the place of every line.

    Args:
        stream: of the prompt, from the layout of `with_lines`.
        prompt: as the host read it, with its lines.
        position_ids: [R, B, S] on the CPU, from the host. Rotary positions are the last three rows, or the only one.
        adapter: of the host. Where its positions of a clip are times, lines have those of their time, and no other
            token of the clip moves; else what follows a line moves by its tokens.
    """
    rows, length = prompt.input_ids.shape
    order = torch.arange(length).repeat(rows, 1)
    position_ids, shift = position_ids.clone(), torch.zeros(rows, dtype=position_ids.dtype)
    rotary = position_ids[-3:] if len(position_ids) > 1 else position_ids
    for row, found in enumerate(prompt.lines):
        columns = slice(row * length, (row + 1) * length)
        if found is None or not bool((stream.modality[columns] == Modality.SUBTITLE).any()):
            continue
        part = LineRow(
            block=found.block(prompt.attention_mask[row]),
            chunk=stream.chunk[columns],
            clip=stream.clip[columns],
            modality=stream.modality[columns],
            time=stream.position[0, columns],
        )
        order[row], shift[row] = part.place(prompt.input_ids[row], rotary[:, row], adapter)
    return Placement(order, position_ids, shift)


@dataclass(frozen=True)
class LineRow:
    """One row of S tokens, with lines."""

    block: slice
    """The M tokens of lines."""
    chunk: Tensor
    """[S] int64."""
    clip: Tensor
    """[S] int64."""
    modality: Tensor
    """[S] int8."""
    time: Tensor
    """[S] int64: microseconds."""

    def place(self, input_ids: Tensor, rotary: Tensor, adapter: Adapter) -> tuple[Tensor, Tensor | int]:
        """Find the place of every line.

        Args:
            input_ids: [S] int64.
            rotary: [3 or 1, S]: rotary positions, which are changed in place to those of `Placement`.
            adapter: of the host.

        Returns:
            `Placement.order` and ``shift`` of the row.
        """
        places = self.places(input_ids, adapter)
        # A stable sort of twice the column, and for a line of one less than that of the token it goes before.
        key = 2 * torch.arange(len(input_ids))
        key[self.block] = 2 * places - 1
        order = torch.argsort(key, stable=True)
        if adapter.times_are_positions:
            return order, self.overlay(rotary)
        self.insert(rotary, places)
        return order, 0

    @property
    def media(self) -> Tensor:
        """[N] int64: columns of the video and audio tokens of the clip."""
        return torch.nonzero((self.clip == self.clip[self.block.start]) & (self.modality != Modality.SUBTITLE))[:, 0]

    def places(self, input_ids: Tensor, adapter: Adapter) -> Tensor:
        """[M] int64: the column before which each token of a line goes; the first of the lines where it stays."""
        media = self.media
        kinds = self.modality[media]
        leading = Modality.VIDEO if bool((kinds == Modality.VIDEO).any()) else Modality.AUDIO
        # The first token of each chunk, and the text between it and the last token before it.
        opening = media[(kinds == leading) & (self.chunk[media] >= 0)]
        chunks, number = torch.unique_consecutive(self.chunk[opening], return_inverse=True)
        firsts = torch.full((len(chunks),), len(self.chunk)).scatter_reduce_(0, number, opening, "amin")[1:]
        lasts = media[torch.searchsorted(media, firsts) - 1]
        gaps = [input_ids[last + 1 : first] for last, first in zip(lasts.tolist(), firsts.tolist(), strict=True)]
        # A line stands behind what belongs to the frame before it, and before what belongs to the next.
        end = self.block.start
        if adapter.times_behind:
            starts = firsts - _common([part.flip(0) for part in (input_ids[: int(opening[0])], *gaps)])
        else:
            # With a single chunk, text between its frames tells what belongs to a frame.
            breaks = torch.nonzero(media.diff() > 1)[:, 0].tolist()
            gaps = gaps or [input_ids[int(media[k]) + 1 : int(media[k + 1])] for k in breaks]
            behind = _common([*gaps, input_ids[int(opening[-1]) + 1 : end]]) if adapter.times_in_words else 0
            starts = lasts + 1 + behind
            # Behind the last chunk, too, unless its audio stands apart from it.
            if int(opening[-1]) == int(media[-1]) or not adapter.times_in_words:
                placeholder = input_ids[:end] == input_ids[media[-1]]  # also of LLaVA's token behind a clip
                end = int(torch.nonzero(placeholder)[-1]) + 1 + behind
        after = torch.cat([starts, torch.tensor([end])])
        return after[torch.searchsorted(chunks, self.chunk[self.block]).clamp(max=len(chunks) - 1)]

    def overlay(self, rotary: Tensor) -> Tensor:
        """Give lines the positions of their times in ``rotary`` [3, S], in place; returns the `Placement.shift`."""
        media = self.media
        by_time = media[torch.argsort(self.time[media], stable=True)]
        latest = rotary[0, by_time].cummax(0).values
        found = torch.searchsorted(self.time[by_time], self.time[self.block], right=True) - 1
        placed = successive(latest[found.clamp(min=0)])
        # Text behind the clip begins where it would without lines, or behind the last of them.
        begin = int(media[-1]) + 1
        past = (placed[-1] + 1 - rotary[0, begin]).clamp(min=0)
        shift: Tensor = self.block.stop - self.block.start - past
        rotary[:, begin : self.block.start] += past
        rotary[:, self.block.stop :] -= shift
        rotary[:, self.block] = placed
        return shift

    def insert(self, rotary: Tensor, places: Tensor) -> None:
        """Count lines among the tokens between which they go, in ``rotary`` [3 or 1, S], in place."""
        placed = rotary[:, places] + torch.arange(len(places), dtype=rotary.dtype)
        # How many tokens of lines go before each column.
        before = torch.searchsorted(places, torch.arange(self.block.start), right=True)
        rotary[:, : self.block.start] += before.to(rotary.dtype)
        rotary[:, self.block] = placed


def successive(start: Tensor, free: float | None = None) -> Tensor:
    """Positions of the tokens of lines, which count up from the time of their line and never meet.

    Args:
        start: [M]: the position at which the line of each token would begin.
        free: the first position behind earlier lines; None if there are none.

    Returns:
        [M], strictly ascending: a line begins at its time, or behind the line before it.
    """
    count = torch.arange(len(start), dtype=start.dtype)
    lead = start - count if free is None else (start - count).clamp(min=free)
    return lead.cummax(0).values + count


def _common(parts: Sequence[Tensor]) -> int:
    """Length of the beginning that all parts share; 0 without parts."""
    width = min((len(part) for part in parts), default=0)
    same = torch.ones(width, dtype=torch.bool)
    for one, other in pairwise(parts):
        same &= one[:width] == other[:width]
    return int(same.long().cumprod(0).sum())
