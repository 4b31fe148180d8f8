"""What every policy holds to, on any stream: order in time, positions within `Policy.longest`, and nothing ahead.

Lines of text have an order of their own: they stand behind the video and audio of their time, and may reach beyond it.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omnisift import KeepAll, MemoryBank, NestedBudgets, Policy, SlidingWindow
from omnisift.streaming.policies import Clock, HeldTokens
from omnisift.tokens import Modality

SECONDS = st.floats(0.01, 40.0)
TIERS = st.lists(st.tuples(st.floats(0.5, 20), st.floats(0.01, 1)), min_size=1, max_size=4)
POLICIES = st.one_of(
    st.just(KeepAll()),
    SECONDS.map(SlidingWindow),
    st.builds(MemoryBank, SECONDS, st.integers(1, 60), SECONDS),
    TIERS.map(lambda tiers: NestedBudgets([(sum(s for s, _ in tiers[: k + 1]), r) for k, (_, r) in enumerate(tiers)])),
)
GAPS = st.sampled_from([1, 1, 1, 1, 1, 2, 3, 7, 40, 10**7])
SCORES = st.sampled_from(["any", "none", "same", "negative"])
LINES = st.one_of(st.just(0), st.just(0), st.integers(1, 12))
UNITS = st.tuples(GAPS, st.integers(0, 6), st.integers(0, 6), SCORES, LINES)
"""Units from the one before, video tokens, audio tokens, scores, tokens of lines."""
CLOCKS = st.sampled_from([(2.0, 50), (8.0, 104), (2.0, 4), (4.0, 100), (1.0, 25)])


def tokens_of(unit: int, start: int, ids: int, video: int, audio: int, scores: str) -> HeldTokens:
    """Two frames, and sound between them."""
    count = video + audio
    offset = torch.cat(
        [torch.arange(video) * 2 // max(1, video) * (ids // 2), torch.arange(audio) * ids // max(1, audio)]
    )
    kind = torch.tensor([int(Modality.VIDEO)] * video + [int(Modality.AUDIO)] * audio, dtype=torch.int8)
    order = offset.argsort(stable=True)
    random = torch.rand(count, generator=torch.Generator().manual_seed(unit % 1000))
    score = {"any": random, "none": torch.full((count,), math.nan), "same": torch.ones(count), "negative": -random}
    return HeldTokens(
        unit=torch.full((count,), unit),
        offset=offset[order],
        time=offset[order] + start,
        modality=kind[order],
        score=score[scores],
        rank=torch.arange(count),
        size=torch.full((count,), 50),
    )


def with_lines(held: HeldTokens, unit: int, start: int, ids: int, count: int, free: int) -> HeldTokens:
    """The tokens of a unit, then those of a line in its middle, which begins behind earlier ones."""
    offset = max(ids // 2, free - start) + torch.arange(count)
    line = tokens_of(unit, start, ids, 0, count, "any")
    kind = torch.full((count,), int(Modality.SUBTITLE), dtype=torch.int8)
    return held.followed_by(replace(line, offset=offset, time=offset + start, modality=kind))


@given(POLICIES, st.lists(UNITS, min_size=1, max_size=25), CLOCKS, st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_any_policy_on_any_stream(
    policy: Policy, units: list[tuple[int, int, int, str, int]], clock: tuple[float, int], first: int
) -> None:
    seconds, ids = clock
    held, number, base = HeldTokens.empty(), first - 1, 0
    longest = policy.longest(Clock(0, seconds, ids, 0, (32, 50)))
    for gap, *tokens, lines in units:
        number += gap
        plan = policy.plan(held, Clock(number, seconds, ids, number * ids - base, (32, 50)))
        held = held.rows(plan.keep)
        if plan.time is not None:
            assert len(plan.time) == len(held)
            held = replace(held, time=plan.time)
        is_line = held.modality == Modality.SUBTITLE
        if len(held):
            assert int(held.time.min()) >= 0
            assert bool((held.time[~is_line] < plan.start).all())
            for part in (held.time[is_line], held.time[~is_line]):
                assert bool((part.diff() >= 0).all())
        assert plan.start >= 0
        if longest is not None:
            assert plan.start + ids <= longest
        base = number * ids - plan.start
        held = held.followed_by(tokens_of(number, plan.start, ids, *tokens))
        free = int(held.time[held.modality == Modality.SUBTITLE].max()) + 1 if bool(is_line.any()) else 0
        held = with_lines(held, number, plan.start, ids, lines, free)


@given(POLICIES, st.integers(2, 12), CLOCKS)
@settings(max_examples=60, deadline=None)
def test_windows_move_lines_with_their_unit(policy: Policy, units: int, clock: tuple[float, int]) -> None:
    """What is not compressed into a memory keeps its distance from the video and audio of its unit."""
    seconds, ids = clock
    held, start = HeldTokens.empty(), 0
    for number in range(units):
        plan = policy.plan(held, Clock(number, seconds, ids, start, (32, 50)))
        held = held.rows(plan.keep)
        held = held if plan.time is None else replace(held, time=plan.time)
        is_old = torch.zeros(len(held), dtype=torch.bool)
        if isinstance(policy, MemoryBank):
            is_old = Clock(number, seconds, ids, start, (32, 50)).age(held) > max(policy.window, seconds)
        assert bool((held.time - held.offset == plan.start - (number - held.unit) * ids)[~is_old].all())
        held = with_lines(
            held.followed_by(tokens_of(number, plan.start, ids, 4, 4, "any")), number, plan.start, ids, 3, 0
        )
        start = plan.start + ids
