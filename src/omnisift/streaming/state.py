"""What a stream session has read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from omnisift.media.lines import Line
from omnisift.pipeline.line_tokens import LineTokens
from omnisift.streaming.assembler import Assembler
from omnisift.streaming.cache import StreamCache
from omnisift.streaming.checks import check_context
from omnisift.streaming.encoder import UnitEncoder
from omnisift.streaming.layout import StreamLayout, UnitTokens
from omnisift.streaming.lines import UnitLines, WaitingLines
from omnisift.streaming.policies import HeldTokens
from omnisift.streaming.report import StreamReport
from omnisift.tokens import Modality


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

    def waiting(self, unit: int) -> list[Line]:
        """The lines that a complete unit reads: those that begin before its end."""
        return self.lines.before(float((unit + 1) * self.layout.unit_seconds))

    def unit_lines(self, unit: int, waiting: Sequence[Line], processor: Any, limit: int | None) -> UnitLines | None:
        """The tokens of the lines that a unit reads; None without any.

        Args:
            unit: its number.
            waiting: the lines.
            processor: of the model.
            limit: tokens of the model's context; None if it has none.

        Raises:
            TooBig: the lines alone have more.
        """
        tokens = LineTokens.of(processor, waiting, "the stream")
        if tokens is None:
            return None
        check_context(limit, tokens.ids.shape[1], 0)
        return UnitLines.of(tokens, float(unit * self.layout.unit_seconds), self.lead_of(unit))

    def seen_lines(self, unit: int, processor: Any, limit: int | None) -> UnitLines | None:
        """As `unit_lines`, for a question: of lines that begin before the end of the last image."""
        known = self.assembler.end + 1 / self.layout.fps
        return self.unit_lines(unit, [line for line in self.waiting(unit) if line.start < known], processor, limit)

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
            text_tokens=int((self.held.modality == Modality.SUBTITLE).sum()),
            cache_bytes=self.cache.nbytes,
            next_position=self.start_of(self.assembler.unit),
            encode_seconds=self.seconds["encode"],
            compress_seconds=self.seconds["compress"],
            read_seconds=self.seconds["read"],
            **vars(self.assembler.counted),
        )
