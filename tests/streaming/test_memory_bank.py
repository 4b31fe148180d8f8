"""Which old tokens the memory holds, and where: against plain loops on generated scores."""

import math

import pytest
import torch

from omnisift.streaming.policies import Clock, HeldTokens, MemoryBank
from omnisift.tokens import Modality

IDS, SECONDS = 50, 2.0


def unit_of(number, start, generator, video=6, audio=8, score=None):
    """The tokens of a unit: two frames, then audio."""
    offset = torch.cat([torch.arange(video) * 2 // video * 25, torch.arange(audio) * 6])
    count = video + audio
    kind = torch.cat([torch.full((video,), int(Modality.VIDEO)), torch.full((audio,), int(Modality.AUDIO))])
    return HeldTokens(
        unit=torch.full((count,), number),
        offset=offset,
        time=offset + start,
        modality=kind.to(torch.int8),
        score=torch.rand(count, generator=generator) if score is None else score,
        rank=torch.zeros(count, dtype=torch.int64),
        size=torch.full((count,), 50),
    )


def streamed(policy, units, generator, **options):
    """(held tokens before each unit, plan) of a stream."""
    held, start = HeldTokens.empty(), 0
    for number in range(units):
        plan = policy.plan(held, Clock(number, SECONDS, IDS, start, (32, 50)))
        before, held = held, held.rows(plan.keep)
        if plan.time is not None:
            held = HeldTokens(**{**vars(held), "time": plan.time})
        yield number, before, plan, held
        held, start = held.followed_by(unit_of(number, plan.start, generator, **options)), plan.start + IDS


@pytest.mark.parametrize(("window", "tokens", "span"), [(6, 20, 6.0), (4, 9, 2.0), (2, 1000, 8.0)])
def test_window_memory_and_span(window, tokens, span):
    policy = MemoryBank(window, tokens, span)
    for number, before, plan, held in streamed(policy, 14, torch.Generator().manual_seed(0)):
        old = held.unit < number + 1 - window // 2
        # The window is complete, and its times are those of a clip that begins with the memory.
        for unit in range(max(0, number + 1 - window // 2), number):
            assert int((held.unit == unit).sum()) == 14
        is_audio = held.modality == Modality.AUDIO
        assert int((old & is_audio).sum()) <= tokens // 2
        assert int((old & ~is_audio).sum()) <= tokens - tokens // 2
        # Nothing passes the span, and nothing changes its order in time.
        if bool(old.any()):
            room = min(span * 25, IDS * (number + 1 - window // 2))
            assert int(held.time[old].max()) < room
            assert int(held.time[~old].min() if bool((~old).any()) else plan.start) >= room - 1e-9
            first = held.time[old & is_audio]
            assert bool((first.diff() >= 0).all())
        assert plan.start + IDS <= policy.longest(Clock(0, SECONDS, IDS, 0, (32, 50)))
        assert len(before) >= len(held)


def test_the_highest_scores_stay():
    policy = MemoryBank(2, 10, 4.0)
    for number, before, plan, _ in streamed(policy, 8, torch.Generator().manual_seed(1)):
        old = before.unit < number
        for kind in (Modality.VIDEO, Modality.AUDIO):
            rated = sorted(
                (-score_of(before, i), i) for i in range(len(before)) if old[i] and before.modality[i] == kind
            )
            wanted = {i for _, i in rated[:5]}
            assert {i for _, i in rated if plan.keep[i]} == wanted


def score_of(held, index):
    """A plain loop for one token."""
    score = float(held.score[index])
    if held.modality[index] != Modality.AUDIO or score <= 0:
        return score
    mates = [float(s) for s, u, m in zip(held.score, held.unit, held.modality, strict=True)
             if u == held.unit[index] and m == Modality.VIDEO]  # fmt: skip
    return score * math.sqrt(max([0.0, *mates]))


def test_sounds_of_units_with_something_to_see_come_first():
    policy, generator = MemoryBank(2, 8, 4.0), torch.Generator().manual_seed(2)
    plain = unit_of(0, 0, generator, score=torch.cat([torch.full((6,), 0.1), torch.full((8,), 0.9)]))
    seen = unit_of(1, 50, generator, score=torch.cat([torch.full((6,), 0.8), torch.full((8,), 0.6)]))
    held = plain.followed_by(seen)
    plan = policy.plan(held, Clock(2, SECONDS, IDS, 100, (32, 50)))
    kept = held.rows(plan.keep)
    assert kept.unit[kept.modality == Modality.AUDIO].tolist() == [1] * 4


@pytest.mark.parametrize("score", [-0.5, 0.0, math.nan])
def test_scores_of_any_sign(score):
    policy, generator = MemoryBank(2, 6, 4.0), torch.Generator().manual_seed(3)
    scores = torch.cat([torch.linspace(-1, 1, 6), torch.full((7,), score), torch.tensor([0.7])])
    held = unit_of(0, 0, generator, score=scores).followed_by(unit_of(1, 50, generator, score=scores))
    plan = policy.plan(held, Clock(2, SECONDS, IDS, 100, (32, 50)))
    kept = held.rows(plan.keep)
    assert int((kept.modality == Modality.AUDIO).sum()) == 3
    assert int((kept.score[kept.modality == Modality.AUDIO] == 0.7).sum()) == 2


def test_sound_alone_keeps_its_own_order():
    policy, generator = MemoryBank(2, 6, 4.0), torch.Generator().manual_seed(4)
    held = unit_of(0, 0, generator, video=0).followed_by(unit_of(1, 50, generator, video=0))
    plan = policy.plan(held, Clock(2, SECONDS, IDS, 100, (0, 50)))
    assert set(plan.keep.nonzero()[:, 0].tolist()) == set(held.score.argsort(descending=True)[:3].tolist())
