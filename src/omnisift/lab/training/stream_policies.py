"""Memories of old tokens that were compared with `omnisift.MemoryBank`, and policies at random for training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from omnisift.streaming.policies import Clock, HeldTokens, KeepAll, NestedBudgets, Plan, Policy, SlidingWindow
from omnisift.tokens import Modality

SHARINGS = ("time", "units", "tokens", "gaps")
"""How old tokens share the memory's positions: by the time of their units, in equal parts for each unit that keeps a
token, by tokens, or as they stand, but for the time without tokens, which is cut."""


@dataclass(frozen=True)
class TriedMemory(Policy):
    """A memory with the choices that were measured; positions and sizes are those of Qwen2.5-Omni."""

    window: int = 3
    """Units that stay whole."""
    video: int = 32
    """Old video tokens."""
    audio: int = 32
    """Old audio tokens."""
    span: int = 150
    """Temporal positions that old tokens share at most."""
    sharing: str = "tokens"
    """One of `SHARINGS`."""
    gap: int = 12
    """Positions to which time without tokens is cut, under "gaps"."""
    seen: float = 0.0
    """The score of a sound is multiplied by that of its unit's best video token to this power."""
    whole: bool = False
    """Whether units are chosen by their best video token and keep what they have, until the memory is full."""
    most: int = 0
    """Most tokens that one unit keeps of either modality; 0 for no limit."""
    noise: float = 0.0
    """Standard deviation of random factors of the scores, as logarithms; they depend on the unit."""
    needs_scores: ClassVar[bool] = True

    def plan(self, held: HeldTokens, clock: Clock) -> Plan:
        """Keep the window and the memory. See `Policy.plan`."""
        first = max(0, clock.unit + 1 - self.window)
        old = held.unit < first
        keep = ~old
        if not bool(old.any()):
            return Plan(keep, None, clock.start)
        sound = held.modality == Modality.AUDIO
        score = self._scores(held, old, sound)
        for part, most in ((~sound, self.video), (sound, self.audio)):
            index = torch.nonzero(old & part & score.isfinite())[:, 0]
            keep[index[score[index].argsort(descending=True, stable=True)[:most]]] = True
        kept, is_old = held.rows(keep), old[keep]
        room = min(self.span, first * clock.ids)
        time = kept.offset + clock.ids * (kept.unit - first)
        squeezed = self._squeezed(kept.unit[is_old], kept.offset[is_old], room, clock.ids, first)
        if self.sharing == "gaps":
            room = min(room, int(squeezed.max()) + self.gap)
        time += room
        time[is_old] = squeezed
        return Plan(keep, time, room + clock.ids * (clock.unit - first))

    def _scores(self, held: HeldTokens, old: Tensor, sound: Tensor) -> Tensor:
        """[K]: what tokens are chosen by; minus infinity for those over the limit of their unit."""
        score = held.score.clone()
        if self.noise:
            draws = [np.random.default_rng(int(u)).normal(0, self.noise) for u in torch.unique(held.unit)]
            score = score * torch.tensor(draws).exp().float()[torch.unique(held.unit, return_inverse=True)[1]]
        units, number = torch.unique(held.unit, return_inverse=True)
        best = torch.zeros(len(units)).scatter_reduce_(0, number[~sound], score[~sound], "amax")
        score = torch.where(sound, score * best[number] ** self.seen, score)
        if self.whole:
            score = best.argsort().argsort()[number] + score / (score.abs().max() + 1e-6)
        if self.most:
            order = torch.argsort(score, descending=True, stable=True)
            group = 2 * number + sound
            order = order[torch.argsort(group[order], stable=True)]
            begin = torch.searchsorted(group[order].contiguous(), group[order].contiguous())
            place = torch.empty_like(order)
            place[order] = torch.arange(len(order)) - begin
            score = torch.where(place < self.most, score, -torch.inf)
        return torch.where(old, score, -torch.inf)

    def _squeezed(self, unit: Tensor, offset: Tensor, room: int, ids: int, units: int) -> Tensor:
        """[K] int64: temporal positions of old tokens, below ``room``."""
        if self.sharing == "gaps":
            moments, number = torch.unique(unit * ids + offset, return_inverse=True)
            cut = torch.diff(moments, prepend=moments[:1]).clamp(max=self.gap).cumsum(0).double()
            return (cut * min(1.0, (room - 1) / max(1.0, float(cut[-1]))) + 1e-9).long()[number]
        found, number, count = torch.unique(unit, return_inverse=True, return_counts=True)
        if self.sharing == "time":
            return ((unit * ids + offset).double() * room / (units * ids) + 1e-9).long().clamp(max=room - 1)
        weight = count.double() if self.sharing == "tokens" else torch.ones(len(found), dtype=torch.float64)
        share = room * weight / weight.sum()
        begin = share.cumsum(0) - share
        return (begin[number] + offset.double() / ids * share[number] + 1e-9).long().clamp(max=room - 1)


def any_policy(unit_tokens: int, rng: np.random.Generator) -> Policy:
    """A policy at random for training.

    Args:
        unit_tokens: kept tokens of a unit.
        rng: random numbers.
    """
    draw = rng.random()
    if draw < 0.12:
        return KeepAll()
    if draw < 0.20:
        first = float(rng.choice((6, 12, 20)))
        return NestedBudgets(((first, None), (first + float(rng.choice((12, 24))), 0.10), (90.0, 0.05)))
    if draw < 0.30:
        return SlidingWindow(float(rng.choice((6, 12, 24))))
    return TriedMemory(
        window=int(rng.integers(2, 8)),
        video=int(unit_tokens * rng.uniform(0.8, 3.5)),
        audio=int(unit_tokens * rng.uniform(0.6, 3.0)),
        span=int(rng.choice((50, 75, 100, 150, 150, 200, 300))),
        sharing=str(rng.choice(SHARINGS, p=(0.1, 0.15, 0.4, 0.35))),
        gap=int(rng.choice((6, 12, 25))),
        seen=float(rng.choice((0.0, 0.5, 1.0))),
        whole=bool(rng.random() < 0.2),
        most=int(rng.choice((0, unit_tokens // 4, unit_tokens // 2))),
        noise=0.2,
    )
