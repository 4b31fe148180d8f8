"""Are questions about old and new events of a long stream still answered, under each policy?

Streams of the generated worlds, whose clips are encoded and compressed once and replayed into the caches of sessions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from omnisift.lab.training.packed import CAPTION, Writer
from omnisift.lab.training.stream_bank import Event, StreamBank
from omnisift.lab.training.stream_batches import Row, StreamBatch, choose_fillers, lay_out, segment_of
from omnisift.lab.training.stream_scenes import CLIP_SECONDS, stream_questions
from omnisift.models.prompt_cut import IGNORE_INDEX
from omnisift.streaming.policies import Policy
from omnisift.world import WIDE_TYPES

_AT_ONCE = 16
"""Streams that are read together."""


@dataclass(frozen=True)
class Condition:
    """Where the events of a stream are."""

    name: str
    before: int = 0
    """Seconds before the events."""
    after: int = 0
    """Seconds after them."""
    kind: str = "quiet"
    """What happens in that time: one of `omnisift.lab.training.stream_scenes.FILLERS`."""
    gap: int = 0
    """Seconds between two halves of the events; 0 has all of them in one clip."""


@dataclass(frozen=True)
class Outcome:
    """Questions about the events of one stream, one of each type."""

    right: dict[str, bool]
    """Question type -> whether the first word of the answer is right."""
    tokens: int
    """Tokens in the cache when they are asked."""
    positions: int
    """Temporal positions that the stream takes then."""


@torch.inference_mode()
def measure(
    model: Any, bank: StreamBank, writer: Writer, policy: Policy, budget: str, condition: Condition, events: int
) -> list[Outcome]:
    """Ask one question of each type at the end of each stream.

    Args:
        model: a thinker.
        bank: the clips; events in one part, or in two where the condition has a gap.
        writer: makes token ids.
        policy: what stays.
        budget: one of `omnisift.lab.training.stream_bank.BUDGETS`.
        condition: where the events are.
        events: streams.
    """
    wanted = 2 if condition.gap else 1
    chosen = [event for event in bank.events if len(event.parts) == wanted][:events]
    rows = [_row(bank, writer, budget, condition, event, number) for number, event in enumerate(chosen)]
    result: list[Outcome] = []
    for first in range(0, len(rows), _AT_ONCE):
        result += _outcomes(model, bank, policy, rows[first : first + _AT_ONCE])
    return result


def _row(bank: StreamBank, writer: Writer, budget: str, condition: Condition, event: Event, number: int) -> Row:
    rng = np.random.default_rng((5, number))
    before, gap, after = (seconds // CLIP_SECONDS for seconds in (condition.before, condition.gap, condition.after))
    parts = len(event.parts)
    clips = before + parts + gap * (parts - 1) + after
    mixture = choose_fillers(bank, event, condition.kind, rng) if clips > parts else None
    places = [before + i * (1 + gap) for i in range(parts)]
    units, scene = lay_out(bank, event, mixture, places, clips, budget, number)
    asked = stream_questions(scene, mixture, rng)
    return Row(units, [segment_of(question, writer, None) for question in asked])


def _outcomes(model: Any, bank: StreamBank, policy: Policy, rows: Sequence[Row]) -> list[Outcome]:
    batch = StreamBatch(model, bank.frame, [policy] * len(rows))
    for number in range(len(rows[0].units)):
        batch.add([row.units[number] for row in rows])
    states, tails = batch.ask([row.segments for row in rows])
    due = (tails["labels"] != IGNORE_INDEX) & (tails["kind"] < CAPTION)
    right = torch.zeros_like(due)
    right[due] = model.lm_head(states[due]).argmax(-1) == tails["labels"][due]
    return [
        Outcome(
            {WIDE_TYPES[int(tails["kind"][row, at])]: bool(right[row, at]) for at in torch.nonzero(due[row])[:, 0]},
            batch.tokens[row],
            batch.start[row],
        )
        for row in range(len(rows))
    ]


def counts(outcomes: Sequence[Outcome], types: Sequence[str] | None = None) -> tuple[list[int], list[int]]:
    """(right answers, questions) of each stream, of the given types or all."""
    kept = [{k: v for k, v in o.right.items() if types is None or k in types} for o in outcomes]
    return [sum(row.values()) for row in kept], [len(row) for row in kept]


def by_type(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Question type -> accuracy in 0..1."""
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for outcome in outcomes:
        right.update({name: int(value) for name, value in outcome.right.items()})
        total.update(outcome.right.keys())
    return {name: right[name] / total[name] for name in WIDE_TYPES if total[name]}
