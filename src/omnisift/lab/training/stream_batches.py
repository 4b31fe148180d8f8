"""Streams put together from encoded clips, and the cache of a batch of them as a session with a policy keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from omnisift.lab.training.nano_model import language_model_of
from omnisift.lab.training.packed import Segment, Writer, packed_tails
from omnisift.lab.training.stream_bank import UNIT_IDS, UNIT_SECONDS, Event, Frame, StreamBank, Unit
from omnisift.lab.training.stream_scenes import CLIP_SECONDS, FILLERS, Mixture, stream_questions, whole_scene
from omnisift.models.cached_prompt import cache_argument
from omnisift.streaming.policies import Clock, HeldTokens, Policy
from omnisift.tokens import Modality
from omnisift.world import WIDE_TYPES, Question, Scene


@dataclass(frozen=True)
class Row:
    """One stream with its questions."""

    units: list[Unit] = field(repr=False)
    segments: list[Segment] = field(repr=False)


def choose_fillers(bank: StreamBank, event: Event, kind: str, rng: np.random.Generator) -> Mixture:
    """Fillers of a kind, or of the next quieter one if the events leave no form or colour for it."""
    scene = whole_scene(event.parts, [0] * len(event.parts))
    mixture = Mixture.of(kind, scene, bank.fillers[kind], rng)
    if mixture.numbers:
        return mixture
    return choose_fillers(bank, event, FILLERS[FILLERS.index(kind) - 1], rng)


def lay_out(
    bank: StreamBank, event: Event, mixture: Mixture | None, places: Sequence[int], clips: int, budget: str, shift: int
) -> tuple[list[Unit], Scene]:
    """The units of a stream, and the scene of its events.

    Args:
        bank: the encoded clips.
        event: the events.
        mixture: the fillers; None if the stream has none.
        places: number of the clip of each part of the events.
        clips: clips of the stream.
        budget: one of `omnisift.lab.training.stream_bank.BUDGETS`.
        shift: which of the fillers comes first.
    """
    units: list[Unit] = []
    for place in range(clips):
        if place in places:
            units += event.units[budget][list(places).index(place)]
        elif mixture is not None:
            number = mixture.numbers[(place * 7 + shift) % len(mixture.numbers)]
            units += bank.filler_units[mixture.kind][budget][number]
    return units, whole_scene(event.parts, [CLIP_SECONDS * place for place in places])


def draw_row(
    bank: StreamBank,
    writer: Writer,
    rng: np.random.Generator,
    budget: str,
    clips: int,
    questions: int,
    types: Mapping[str, float],
) -> Row:
    """A stream at random for training.

    Args:
        bank: the encoded clips.
        writer: makes token ids.
        rng: random numbers.
        budget: one of `omnisift.lab.training.stream_bank.BUDGETS`.
        clips: clips of the stream.
        questions: number of questions.
        types: weights of the question types.
    """
    while True:
        event = bank.events[int(rng.integers(len(bank.events)))]
        if len(event.parts) <= clips:
            break
    fillers = clips - len(event.parts)
    mixture = choose_fillers(bank, event, str(rng.choice(FILLERS, p=(0.4, 0.3, 0.3))), rng) if fillers else None
    places = sorted(int(i) for i in rng.permutation(clips)[: len(event.parts)])
    units, scene = lay_out(bank, event, mixture, places, clips, budget, int(rng.integers(1000)))
    asked = stream_questions(scene, mixture, rng, types, questions)
    return Row(units, [segment_of(question, writer, rng) for question in asked])


def segment_of(question: Question, writer: Writer, rng: np.random.Generator | None) -> Segment:
    """A question with its answer; with ``rng`` its wording is perturbed."""
    words = list(writer.encode(question.text))
    if rng is not None:
        words = writer.perturb(words, rng)
    answer = [writer.encode(question.answer)[0], writer.end]
    return Segment(words + writer.close, answer, WIDE_TYPES.index(question.type))


class StreamBatch:
    """The caches of ``B`` sessions that read compressed units, one for each row at a time. Gradients flow through it.

    Args:
        model: a thinker.
        frame: the prompt around the streams.
        policies: what stays, for each row.
    """

    def __init__(self, model: Any, frame: Frame, policies: Sequence[Policy]) -> None:
        self.language, self.frame, self.policies = language_model_of(model), frame, policies
        rows, first = len(policies), frame.first
        embeds = self.language.embed_tokens(frame.layout.ids[:first])
        self.held, self.start = [HeldTokens.empty() for _ in policies], [0] * rows
        self.valid = torch.ones(rows, 0, dtype=torch.bool)
        self.keys = self.values = torch.zeros(0)
        """[layers, B, heads, L, head width]: first the opening, then the held tokens of each row, then padding."""
        self.unit = 0
        self._read(
            embeds.expand(rows, -1, -1),
            frame.layout.position[:, None, :first].expand(-1, rows, -1),
            torch.ones(rows, first, dtype=torch.bool),
        )

    @property
    def tokens(self) -> list[int]:
        """Tokens in the cache of each row."""
        return self.valid.sum(dim=1).tolist()

    def add(self, units: Sequence[Unit]) -> None:
        """Let the policies plan, then read the next unit of each row."""
        self._apply([self._plan(row, unit) for row, unit in enumerate(units)])
        most = max(len(unit.offset) for unit in units)
        rows = len(units)
        embeds = units[0].embeds.new_zeros(rows, most, units[0].embeds.shape[1])
        position, there = torch.zeros(3, rows, most, dtype=torch.int64), torch.zeros(rows, most, dtype=torch.bool)
        for row, unit in enumerate(units):
            count, time = len(unit.offset), self.start[row] + unit.offset
            embeds[row, :count], there[row, :count] = unit.embeds, True
            position[:, row, :count] = self.frame.origin + torch.stack(
                [time, *torch.where(unit.sound, time, unit.place)]
            )
            self.held[row] = self.held[row].followed_by(_held(unit, self.unit, time))
            self.start[row] += UNIT_IDS
        self._read(embeds, position, there)
        self.unit += 1

    def ask(self, segments: list[list[Segment]]) -> tuple[Tensor, dict[str, Tensor]]:
        """Ask questions, each as if it were alone; the caches stay as they are.

        Args:
            segments: the questions about each row.

        Returns:
            (hidden states of the questions [B, T, D], their ``labels`` and ``kind`` [B, T] as
            `omnisift.lab.training.packed.make_batch` has them).
        """
        tails, rows = packed_tails(segments, 0, 0), len(segments)
        closing = self.frame.closing.expand(rows, -1)
        ids = torch.cat([closing, tails["tail"]], dim=1)
        end = self.frame.origin + torch.tensor(self.start)[:, None]
        position = torch.cat([end + self.frame.closing_at, end + self.frame.question_at + tails["offset"]], dim=1)
        cached, number = self.valid.shape[1], torch.cat([torch.zeros_like(closing), tails["segment"]], dim=1)
        stream = torch.cat([self.valid, torch.ones_like(closing, dtype=torch.bool), tails["segment"] < 0], dim=1)
        asked = torch.cat([torch.zeros(rows, cached, dtype=torch.bool), number > 0], dim=1)
        number = torch.cat([torch.zeros(rows, cached, dtype=torch.int64), number], dim=1)
        same = (number[:, cached:, None] == number[:, None, :]) & asked[:, None]
        total = number.shape[1]
        causal = torch.ones(total, total, dtype=torch.bool).tril()[cached:]
        itself = torch.eye(total, dtype=torch.bool)[cached:]  # a padding sees itself: no softmax is over nothing
        mask = ((stream[:, None] | same) & causal) | itself
        states, _ = self._forward(self.language.embed_tokens(ids), position.expand(3, -1, -1), mask[:, None])
        return states[:, closing.shape[1] :], tails

    def _plan(self, row: int, unit: Unit) -> Tensor:
        """Plan one row: [2, K] int64, columns of the cache that stay and how far each moves."""
        held = self.held[row]
        sizes = (int(unit.full[:2].sum()), int(unit.full[2]))
        clock = Clock(self.unit, float(UNIT_SECONDS), UNIT_IDS, self.start[row], sizes)
        plan = self.policies[row].plan(held, clock)
        kept = held.rows(plan.keep)
        time = kept.time if plan.time is None else plan.time
        column = torch.nonzero(self.valid[row])[self.frame.first :, 0][plan.keep]
        moved = time - kept.time
        self.held[row], self.start[row] = replace(kept, time=time), plan.start
        return torch.stack([column, moved])

    def _apply(self, plans: Sequence[Tensor]) -> None:
        """Drop and move cached tokens."""
        first, rows = self.frame.first, len(plans)
        most = max(plan.shape[1] for plan in plans)
        column = torch.zeros(rows, first + most, dtype=torch.int64)
        column[:, :first] = torch.arange(first)
        moved = torch.zeros(3, rows, first + most, dtype=torch.int64)
        valid = torch.zeros(rows, first + most, dtype=torch.bool)
        valid[:, :first] = True
        for row, (stays, far) in enumerate(plans):
            here = slice(first, first + len(stays))
            column[row, here], valid[row, here] = stays, True
            sound = self.held[row].modality == Modality.AUDIO
            moved[:, row, here] = torch.stack([far, *torch.where(sound, far, 0).expand(2, -1)])
        self.valid = valid
        index = column[None, :, None, :, None].expand(len(self.keys), -1, self.keys.shape[2], -1, self.keys.shape[4])
        self.keys, self.values = self.keys.gather(3, index), self.values.gather(3, index)
        if bool(moved.any()):
            # Rotations add up, so cached keys are turned by the difference.
            cos, sin = self.language.rotary_emb(self.keys, moved)
            a, b = self.keys.chunk(2, dim=-1)
            self.keys = self.keys * cos[None, :, None] + torch.cat([-b, a], dim=-1) * sin[None, :, None]

    def _read(self, embeds: Tensor, position: Tensor, there: Tensor) -> None:
        """Append tokens [B, T, D], of which some are padding."""
        length = there.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        new = (causal & there[:, None]) | torch.eye(length, dtype=torch.bool)
        mask = torch.cat([self.valid[:, None].expand(-1, length, -1), new], dim=2)
        _, cache = self._forward(embeds, position, mask[:, None])
        self.keys = torch.stack([layer.keys for layer in cache.layers])
        self.values = torch.stack([layer.values for layer in cache.layers])
        self.valid = torch.cat([self.valid, there], dim=1)

    def _forward(self, embeds: Tensor, position: Tensor, mask: Tensor) -> tuple[Tensor, Any]:
        cache = DynamicCache(config=self.language.config)
        for number in range(len(self.keys)):
            cache.update(self.keys[number], self.values[number], number)
        output = self.language(
            inputs_embeds=embeds,
            position_ids=position,
            attention_mask=mask,
            use_cache=True,
            **cache_argument(self.language, cache),
        )
        return output.last_hidden_state, cache


def _held(unit: Unit, number: int, time: Tensor) -> HeldTokens:
    kind = torch.where(unit.sound, int(Modality.AUDIO), int(Modality.VIDEO)).to(torch.int8)
    return HeldTokens(
        torch.full_like(unit.offset, number), unit.offset, time, kind, unit.score, unit.rank, unit.full[unit.segment]
    )
