"""What every policy holds to, on any stream: order in time, positions within `Policy.longest`, and nothing ahead."""

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
UNITS = st.tuples(GAPS, st.integers(0, 6), st.integers(0, 6), st.sampled_from(["any", "none", "same", "negative"]))
"""Units from the one before, video tokens, audio tokens, scores."""
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


@given(POLICIES, st.lists(UNITS, min_size=1, max_size=25), CLOCKS, st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_any_policy_on_any_stream(
    policy: Policy, units: list[tuple[int, int, int, str]], clock: tuple[float, int], first: int
) -> None:
    seconds, ids = clock
    held, number, base = HeldTokens.empty(), first - 1, 0
    longest = policy.longest(Clock(0, seconds, ids, 0, (32, 50)))
    for gap, *tokens in units:
        number += gap
        plan = policy.plan(held, Clock(number, seconds, ids, number * ids - base, (32, 50)))
        held = held.rows(plan.keep)
        if plan.time is not None:
            assert len(plan.time) == len(held)
            held = replace(held, time=plan.time)
        if len(held):
            assert 0 <= int(held.time.min()) <= int(held.time.max()) < plan.start
            assert bool((held.time.diff() >= 0).all())
        assert plan.start >= 0
        if longest is not None:
            assert plan.start + ids <= longest
        base = number * ids - plan.start
        held = held.followed_by(tokens_of(number, plan.start, ids, *tokens))
