"""Lines of text of a stream: which unit reads each, and where its tokens are among those of the unit."""

from __future__ import annotations

import bisect
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from omnisift.chunks import MICROSECONDS
from omnisift.errors import UsageError
from omnisift.media.lines import Line
from omnisift.models.line_placement import successive
from omnisift.pipeline.line_tokens import LineTokens
from omnisift.streaming.layout import StreamLayout, UnitTokens
from omnisift.streaming.policies import HeldTokens
from omnisift.tokens import Modality, TokenStream

MOST_WAITING = 10_000
"""Lines that wait for their unit."""
MOST_CHARACTERS = 1_000_000
"""Characters of these lines."""


class WaitingLines:
    """Lines that were fed, until their units are read."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._characters = 0

    def add(self, line: Line) -> None:
        """Take a line. Raises `UsageError` if too many wait already."""
        characters = self._characters + len(line.text)
        if len(self._lines) >= MOST_WAITING or characters > MOST_CHARACTERS:
            raise UsageError(
                f"{len(self._lines):,} lines of {self._characters:,} characters wait for images of their time, and at "
                f"most {MOST_WAITING:,} lines of {MOST_CHARACTERS:,} may: feed lines and images together"
            )
        self._characters = characters
        bisect.insort(self._lines, line, key=lambda known: known.start)

    def before(self, seconds: float) -> list[Line]:
        """Those that begin before a moment of the stream, in order of their start."""
        return self._lines[: bisect.bisect_left(self._lines, seconds, key=lambda known: known.start)]

    def drop(self, count: int) -> None:
        """Forget the first lines, which were read."""
        self._characters -= sum(len(line.text) for line in self._lines[:count])
        del self._lines[:count]


@dataclass(frozen=True)
class UnitLines:
    """The X tokens of the lines of one unit."""

    ids: Tensor
    """[X] int64."""
    time: Tensor
    """[X] int64: microseconds from the beginning of the unit to that of their line; 0 for lines that come late."""
    free: int
    """The first rotary position behind earlier lines, from the beginning of the unit."""

    @classmethod
    def of(cls, lines: LineTokens, begin: float, free: int) -> UnitLines:
        """The lines of a unit that begins after ``begin`` seconds of the stream."""
        time = (torch.tensor(lines.times) - round(begin * MICROSECONDS)).clamp(min=0)
        return cls(lines.ids[0], time.repeat_interleave(torch.tensor(lines.lengths)), free)


def with_lines(unit: UnitTokens, lines: UnitLines, layout: StreamLayout) -> UnitTokens:
    """Put lines into a unit: behind the last token of the chunk in which each begins.

    Args:
        unit: the tokens of a unit, or of the part of it that is there.
        lines: of the unit.
        layout: of the stream.

    Returns:
        M + X tokens. The stream has subtitles in their order among its tokens.
    """
    stream, media = unit.stream, torch.nonzero(unit.modality != Modality.TEXT)[:, 0]
    # The chunk of each line, and the token before which it goes.
    count = int(stream.chunk.max()) + 1
    begins = torch.full((count,), 2**62).scatter_reduce_(0, stream.chunk, stream.position[0], "amin")
    chunk = (torch.searchsorted(begins, lines.time, right=True) - 1).clamp(min=0)
    firsts = torch.full((count,), len(unit.ids)).scatter_reduce_(0, stream.chunk, media, "amin")
    places = torch.cat([firsts[1:] - layout.words_before, torch.tensor([len(unit.ids)])])[chunk]
    placed, moved = _positions(unit, media, lines, places, layout)
    # All tokens in their new order, and those of the stream among them.
    order = torch.cat([2 * torch.arange(len(unit.ids)), 2 * places - 1]).argsort(stable=True)
    in_stream = torch.cat([unit.modality != Modality.TEXT, torch.ones_like(places, dtype=torch.bool)])
    number = torch.full((len(order),), -1)
    number[in_stream] = torch.arange(int(in_stream.sum()))
    sequence = number[order]
    kinds = torch.full_like(places, int(Modality.SUBTITLE)).to(unit.modality.dtype)
    return replace(
        unit,
        stream=_extended(stream, chunk, lines.time, sequence[sequence >= 0]),
        ids=torch.cat([unit.ids, lines.ids])[order],
        modality=torch.cat([unit.modality, kinds])[order],
        position_ids=torch.cat([moved, placed], dim=1)[:, order],
        length=unit.length + (0 if layout.times_are_positions else len(places)),
    )


def free_position(unit: UnitTokens, layout: StreamLayout) -> int:
    """The first rotary position behind the lines of a unit that has some, from the beginning of the next unit."""
    placed = unit.position_ids[0, unit.modality == Modality.SUBTITLE]
    return int(placed.max()) + 1 - layout.origin - unit.length


def reach(held: HeldTokens, start: int) -> int:
    """By how many rotary positions the held lines reach beyond the beginning of the next unit, as `HeldTokens.time`."""
    placed = held.time[held.modality == Modality.SUBTITLE]
    return max(0, int(placed.max()) + 1 - start) if len(placed) else 0


def _positions(
    unit: UnitTokens, media: Tensor, lines: UnitLines, places: Tensor, layout: StreamLayout
) -> tuple[Tensor, Tensor]:
    """Rotary positions of the lines, [3, X], and of the tokens of the unit, [3, M]."""
    position_ids = unit.position_ids
    if layout.times_are_positions:
        times, order = unit.stream.position[0].sort(stable=True)
        latest = position_ids[0, media[order]].cummax(0).values
        found = (torch.searchsorted(times, lines.time, right=True) - 1).clamp(min=0)
        placed = successive(latest[found], layout.origin + lines.free)
        return placed.expand(3, -1), position_ids
    # Where positions count tokens, a line has those of the token before which it goes.
    ends = torch.cat([position_ids[0], torch.tensor([layout.origin + unit.length])])
    placed = ends[places] + torch.arange(len(places))
    before = torch.searchsorted(places, torch.arange(len(unit.ids)), right=True)
    return placed.expand(3, -1), position_ids + before


def _extended(stream: TokenStream, chunk: Tensor, time: Tensor, sequence: Tensor) -> TokenStream:
    """A stream with subtitles behind its tokens, all in the order of ``sequence``."""
    count = len(chunk)
    position = torch.zeros(3, count, dtype=torch.int64)
    position[0] = time
    none = torch.zeros(count, dtype=torch.int64)
    joined: dict[str, Tensor] = {
        "modality": torch.full((count,), int(Modality.SUBTITLE), dtype=stream.modality.dtype),
        "position": position,
        "time": (time.double() / MICROSECONDS).float(),
        "chunk": chunk,
        "frame": none - 1,
        "clip": none + stream.clip[0],
        "sample": none,
    }
    fields: dict[str, Any] = {
        name: torch.cat([getattr(stream, name), part], dim=-1)[..., sequence] for name, part in joined.items()
    }
    return replace(stream, embeds=stream.embeds.new_empty(len(sequence), stream.embeds.shape[1]), **fields)
