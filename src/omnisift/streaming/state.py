"""What a stream session has read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from omnisift.pipeline.line_tokens import LineTokens
from omnisift.streaming.assembler import Assembler
from omnisift.streaming.cache import StreamCache
from omnisift.streaming.encoder import UnitEncoder
from omnisift.streaming.layout import StreamLayout, UnitTokens
from omnisift.streaming.lines import UnitLines, WaitingLines
from omnisift.streaming.policies import HeldTokens
from omnisift.streaming.report import StreamReport


@dataclass(eq=False)
class State:
    """What a session has read. It exists from the first image on."""

    layout: StreamLayout
    assembler: Assembler
    encoder: UnitEncoder
    cache: StreamCache
    held: HeldTokens
    read: Tensor
    """[K] int64: `HeldTokens.time` at which each token was read."""
    next: int = 0
    """Number of the unit after the last one that was read."""
    start: int = 0
    """Where that begins, in rotary positions along time; as `HeldTokens.time`."""
    last: UnitTokens | None = None
    """The last unit that was read."""
    units: int = 0
    """Units that were read."""
    seconds: dict[str, float] = field(default_factory=lambda: {"encode": 0.0, "compress": 0.0, "read": 0.0})

    lines: WaitingLines = field(default_factory=WaitingLines)
    """Lines whose units were not read yet."""
    lead: int = 0
    """The first rotary position behind the lines that were read, from ``start``."""

    def start_of(self, unit: int) -> int:
        """Where a unit that was not read yet begins, in rotary positions along time; as `HeldTokens.time`."""
        return self.start + (unit - self.next) * self.layout.gap_ids

    def lead_of(self, unit: int) -> int:
        """As ``lead``, from where a unit begins that was not read yet."""
        return self.lead + self.start - self.start_of(unit)

    def unit_lines(self, unit: int, processor: Any) -> tuple[UnitLines | None, int]:
        """The tokens of the lines that a unit reads, None without any; and how many lines these are.

        Raises:
            UsageError: a line contains a special token of the model.
        """
        seconds = float(self.layout.unit_seconds)
        found = self.lines.before((unit + 1) * seconds)
        tokens = LineTokens.of(processor, found, "the stream")
        lines = None if tokens is None else UnitLines.of(tokens, unit * seconds, self.lead_of(unit))
        return lines, len(found)

    @property
    def report(self) -> StreamReport:
        """What was read, is held, and was dropped."""
        held = torch.unique(self.held.unit)
        seconds = float(self.layout.unit_seconds)
        return StreamReport(
            seconds=self.assembler.end,
            units=self.units,
            held_tokens=len(self.cache),
            held_units=len(held),
            held_seconds=0.0 if not len(held) else float(held[-1] + 1 - held[0]) * seconds,
            evicted_units=self.units - len(held),
            cache_bytes=self.cache.nbytes,
            next_position=self.start_of(self.assembler.unit),
            encode_seconds=self.seconds["encode"],
            compress_seconds=self.seconds["compress"],
            read_seconds=self.seconds["read"],
            **vars(self.assembler.counted),
        )
