"""Which tokens of a stream stay in the cache, and at which rotary positions: `KeepAll`, `SlidingWindow`, and others."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import torch
from torch import Tensor

from omnisift.budget import Budget
from omnisift.errors import UsageError
from omnisift.media.pieces import MAX_TIME
from omnisift.tokens import Modality


@dataclass(frozen=True)
class HeldTokens:
    """The K tokens of a stream that are in the cache, in their order, on the CPU."""

    unit: Tensor
    """[K] int64: number of the unit of each, counted from the stream's beginning."""
    offset: Tensor
    """[K] int64: rotary positions along time from the beginning of its unit."""
    time: Tensor
    """[K] int64: rotary positions along time from the beginning of the stream in the prompt, as they are now."""
    modality: Tensor
    """[K] int8, values of `Modality`."""
    score: Tensor
    """[K] float32: the method's scores; NaN without any."""
    rank: Tensor
    """[K] int64: place of each among the tokens of its segment (a frame, or the audio of a chunk) by score, 0 first."""
    size: Tensor
    """[K] int64: tokens of its segment before compression."""

    def __len__(self) -> int:
        return len(self.unit)

    def rows(self, index: Tensor) -> HeldTokens:
        """Those at ``index``: [N] int64 or [K] bool."""
        return HeldTokens(**{name: value[index] for name, value in vars(self).items()})

    @classmethod
    def empty(cls) -> HeldTokens:
        """No tokens."""
        none = torch.zeros(0, dtype=torch.int64)
        return cls(none, none, none, none.to(torch.int8), none.float(), none, none)

    def followed_by(self, other: HeldTokens) -> HeldTokens:
        """These tokens, then those of another part."""
        return HeldTokens(**{name: torch.cat([value, getattr(other, name)]) for name, value in vars(self).items()})


@dataclass(frozen=True)
class Clock:
    """The time of a stream when its next unit is about to be read."""

    unit: int
    """Number of that unit."""
    seconds: float
    """Seconds of a unit."""
    ids: int
    """Rotary positions of a unit along time; of the longest where times in words make a difference."""
    start: int
    """Where the next unit would begin if nothing moved, in rotary positions along time; as `HeldTokens.time`."""
    sizes: tuple[int, int] = (0, 0)
    """Video and audio tokens of a unit before compression."""
    gap_ids: int | None = None
    """Rotary positions of a unit that has no tokens; None means ``ids``."""

    def age(self, held: HeldTokens) -> Tensor:
        """[K] float64: seconds from the beginning of each token's unit to the end of the next unit."""
        return (self.unit + 1 - held.unit).double() * self.seconds

    def begin_of(self, unit: int, held: HeldTokens) -> int:
        """Where a unit begins, or would where it has no tokens; as `HeldTokens.time`.

        Args:
            unit: its number, at most that of the next unit.
            held: tokens of it and later ones, none of which has moved against another.
        """
        gap = self.ids if self.gap_ids is None else self.gap_ids
        if not len(held):
            return self.start - gap * (self.unit - unit)
        first = held.unit.argmin()
        return int(held.time[first] - held.offset[first]) - gap * int(held.unit[first] - unit)


@dataclass(frozen=True)
class Plan:
    """What happens to the held tokens before the next unit is read."""

    keep: Tensor
    """[K] bool: the tokens that stay."""
    time: Tensor | None
    """New values of `HeldTokens.time` for those that stay, in their order; None if nothing moves."""
    start: int
    """Where the next unit begins; as `HeldTokens.time`."""


class Policy(ABC):
    """Decides, before each unit is read, which older tokens stay and where they are. It has no state."""

    needs_scores: ClassVar[bool] = False
    """Whether it compares scores, so that methods without any are refused."""
    drops_by_rank: ClassVar[bool] = False
    """Whether it drops tokens that others may have been merged into, so that methods that merge are refused."""
    moves: ClassVar[bool] = True
    """Whether it changes positions."""

    @abstractmethod
    def plan(self, held: HeldTokens, clock: Clock) -> Plan:
        """Decide what stays.

        Args:
            held: the tokens in the cache.
            clock: the time of the stream.
        """

    def check(self, clock: Clock, max_positions: int | None) -> None:
        """Check the policy against a model and a stream, when the stream begins.

        Args:
            clock: of the stream.
            max_positions: rotary positions of the model; None if it states none.

        Raises:
            UsageError: the policy does not fit them.
        """
        longest = self.longest(clock)
        if max_positions is not None and longest is not None and longest > max_positions:
            raise UsageError(
                f"{self!r} holds {longest} rotary positions, but the model has {max_positions}: hold fewer seconds"
            )

    def longest(self, clock: Clock) -> int | None:  # noqa: ARG002
        """Rotary positions along time that the stream takes at most; None if there is no limit."""
        return None


@dataclass(frozen=True)
class KeepAll(Policy):
    """Every token that the method keeps stays where it is. Memory and positions grow with the stream."""

    moves: ClassVar[bool] = False

    def plan(self, held: HeldTokens, clock: Clock) -> Plan:
        """Keep all. See `Policy.plan`."""
        return Plan(torch.ones(len(held), dtype=torch.bool), None, clock.start)


@dataclass(frozen=True)
class SlidingWindow(Policy):
    """The last ``seconds`` of the stream stay, and are moved to the positions of a clip that began with them.

    Args:
        seconds: length of the window; whole units stay.
    """

    seconds: float = 60.0

    def __post_init__(self) -> None:
        _check_seconds("seconds", self.seconds)

    def plan(self, held: HeldTokens, clock: Clock) -> Plan:
        """Keep the units of the window. See `Policy.plan`."""
        keep = clock.age(held) <= max(self.seconds, clock.seconds)
        return _rebased(held, keep, clock, self.seconds)

    def longest(self, clock: Clock) -> int | None:
        """The window, and what it may shift before it is moved."""
        return _ids(self.seconds + max(clock.seconds, self.seconds / _MARGIN) + clock.seconds, clock)


@dataclass(frozen=True)
class NestedBudgets(Policy):
    """Older parts of the stream keep fewer tokens: those that the method ranks highest. The oldest are dropped.

    A lower budget is the beginning of the ranking of a higher one, so that nothing is encoded or read again.

    Args:
        tiers: (seconds, retain) pairs, the newest first: up to this age the stream keeps this fraction of its video and
            audio tokens, as `Budget` splits it, and of the tokens of lines that of audio; None keeps what the method
            kept. What is older is dropped.
    """

    tiers: Sequence[tuple[float, float | None]] = ((60.0, None), (300.0, 0.10))

    needs_scores: ClassVar[bool] = True
    drops_by_rank: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.tiers, str) or not all(
            isinstance(tier, (tuple, list)) and len(tier) == 2 for tier in self.tiers
        ):
            raise UsageError(f"tiers are (seconds, retain) pairs, got {self.tiers!r:.80}")
        object.__setattr__(self, "tiers", tuple((seconds, retain) for seconds, retain in self.tiers))
        if not self.tiers:
            raise UsageError("tiers are empty: give at least one (seconds, retain) pair")
        before = 0.0
        for seconds, retain in self.tiers:
            _check_seconds("the seconds of a tier", seconds)
            if seconds <= before:
                raise UsageError(f"the seconds of tiers must grow, got {seconds:g} after {before:g}")
            before = seconds
            if retain is not None:
                Budget(retain=retain)
        if any(retain is None for _, retain in self.tiers[1:]):
            raise UsageError("only the first tier may keep what the method kept (None)")

    def plan(self, held: HeldTokens, clock: Clock) -> Plan:
        """Keep the highest ranks of each tier. See `Policy.plan`."""
        age = clock.age(held)
        keep = age <= max(self.tiers[-1][0], clock.seconds)
        # Subtitles keep the fraction of audio.
        is_audio = (held.modality == Modality.AUDIO) | (held.modality == Modality.SUBTITLE)
        begin = 0.0
        for seconds, retain in self.tiers:
            if retain is not None:
                video, audio = Budget(retain=retain).rates(*clock.sizes)
                rate = torch.where(is_audio, audio, video).double()
                most = held.size - (held.size * (1 - rate) + 1e-9).floor().long()
                keep &= (age <= begin) | (age > seconds) | (held.rank < most)
            begin = seconds
        return _rebased(held, keep, clock, self.tiers[-1][0])

    def longest(self, clock: Clock) -> int | None:
        """The oldest tier, and what it may shift before it is moved."""
        seconds = self.tiers[-1][0]
        return _ids(seconds + max(clock.seconds, seconds / _MARGIN) + clock.seconds, clock)


@dataclass(frozen=True)
class MemoryBank(Policy):
    """The last ``window`` seconds stay; of all that is older, the tokens with the highest scores share a memory.

    The memory has a fixed number of tokens and a fixed span of positions close before the window, whatever the length
    of the stream, so that hours of it stay within the positions that the model was trained with. A sound's score is
    multiplied by the root of the best score among the video tokens of its unit, since methods rate sounds within their
    unit alone: sounds count more where there is something to see.

    Args:
        window: seconds that stay as the method kept them; whole units.
        tokens: tokens of the memory, at most a quarter of them of older lines of text; of the others, half are audio
            where the stream has sound.
        span: seconds of positions that the memory takes.
    """

    window: float = 60.0
    tokens: int = 2000
    span: float = 60.0

    needs_scores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_seconds("window", self.window)
        _check_seconds("span", self.span)
        if isinstance(self.tokens, bool) or not isinstance(self.tokens, int) or self.tokens < 1:
            raise UsageError(f"tokens must be a whole number above 0, got {self.tokens!r}")

    def plan(self, held: HeldTokens, clock: Clock) -> Plan:
        """Keep the window and the highest scores of what is older. See `Policy.plan`."""
        old = clock.age(held) > max(self.window, clock.seconds)
        keep = ~old
        # The memory: up to a quarter for lines, then half for each modality that the stream has.
        text = min(self.tokens // 4, int((old & (held.modality == Modality.SUBTITLE)).sum()))
        audio, score = (self.tokens - text) // 2 if clock.sizes[1] else 0, _guided_scores(held)
        most_of = {Modality.VIDEO: self.tokens - text - audio, Modality.AUDIO: audio, Modality.SUBTITLE: text}
        for kind, most in most_of.items():
            index = torch.nonzero(old & (held.modality == kind))[:, 0]
            best = score[index].argsort(descending=True, stable=True)[:most]
            keep[index[best]] = True
        kept, is_old = held.rows(keep), old[keep]
        first = clock.unit + 1 - max(1, int(max(self.window, clock.seconds) / clock.seconds + 1e-9))
        first = max(0, min(first, clock.unit))
        begin = clock.begin_of(first, kept.rows(~is_old))
        room = min(_ids(self.span, clock), begin)
        time = _shared_span(kept, is_old, room, clock.ids)
        return Plan(keep, torch.where(is_old, time, kept.time + room - begin), clock.start + room - begin)

    def longest(self, clock: Clock) -> int | None:
        """The span and the window."""
        return _ids(self.span + self.window + clock.seconds, clock)


def _guided_scores(held: HeldTokens) -> Tensor:
    """[K]: the scores; those of audio above 0 times the root of the best video score of their unit, 0 without any.

    A stream without video tokens has the scores themselves.
    """
    score = held.score.nan_to_num(nan=-math.inf)
    is_video, is_audio = held.modality == Modality.VIDEO, held.modality == Modality.AUDIO
    if not bool(is_video.any()):
        return score
    unit, number = torch.unique(held.unit, return_inverse=True)
    best = torch.zeros(len(unit)).scatter_reduce_(0, number[is_video], score[is_video], "amax")
    return torch.where(is_audio & (score > 0), score * best[number].sqrt(), score)


def _shared_span(held: HeldTokens, is_old: Tensor, room: int, unit_ids: int) -> Tensor:
    """[K]: times of old tokens, whose units share ``room`` positions by their tokens and keep their order.

    Lines may reach beyond the positions of their unit, which is then the longer.
    """
    unit, inverse, count = torch.unique_consecutive(held.unit, return_inverse=True, return_counts=True)
    old_units = torch.zeros(len(unit), dtype=torch.bool)
    old_units[inverse[is_old]] = True
    share = torch.where(old_units, count, 0).double()
    share = room * share / share.sum().clamp(min=1)
    begin = share.cumsum(0) - share
    width = torch.full_like(unit, unit_ids).scatter_reduce_(0, inverse, held.offset + 1, "amax")
    return (begin[inverse] + held.offset.double() / width[inverse] * share[inverse]).long()


_MARGIN = 8
"""A window is moved when it has shifted by an eighth of itself."""


def _rebased(held: HeldTokens, keep: Tensor, clock: Clock, seconds: float) -> Plan:
    """Move what stays to the beginning, once that has shifted far enough to be worth it."""
    kept = held.rows(keep)
    if not len(kept):
        return Plan(keep, None, 0)
    shift = int((kept.time - kept.offset).min())
    if shift < max(clock.ids, _ids(seconds / _MARGIN, clock)):
        return Plan(keep, None, clock.start)
    return Plan(keep, kept.time - shift, clock.start - shift)


def _ids(seconds: float, clock: Clock) -> int:
    return math.ceil(seconds / clock.seconds * clock.ids)


def _check_seconds(name: str, value: Any) -> None:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number or not 0 < value <= MAX_TIME:
        raise UsageError(f"{name} must be a number of seconds above 0, at most {MAX_TIME:g}, got {value!r:.80}")


def policy_from_text(text: str) -> Policy:
    """Read a policy as the command line writes it.

    Args:
        text: ``all``, ``window:SECONDS``, ``budgets:SECONDS=RETAIN,...`` (``60,300=0.1``: without a fraction what the
            method kept), or ``memory:WINDOW,TOKENS,SPAN``.

    Raises:
        UsageError: it is none of them.
    """
    name, _, rest = text.strip().partition(":")
    try:
        if name == "all" and not rest:
            return KeepAll()
        if name == "window":
            return SlidingWindow(float(rest))
        if name == "budgets":
            tiers = [part.partition("=") for part in rest.split(",")]
            return NestedBudgets([(float(age), float(retain) if retain else None) for age, _, retain in tiers])
        if name == "memory":
            window, tokens, span = rest.split(",")
            return MemoryBank(float(window), int(tokens), float(span))
    except ValueError:
        pass
    raise UsageError(
        f"keep is all, window:60, budgets:60,300=0.1 or memory:60,2000,60 (window, tokens, span), got {text!r:.80}"
    )
