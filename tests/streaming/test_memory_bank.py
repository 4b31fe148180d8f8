"""Which old tokens the memory holds, and where: against plain loops on generated scores."""

import dataclasses
import math

import pytest
import torch

from omnisift import Budget, NestedBudgets
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


def lined_unit(number, start, generator, count, reach=1):
    """A unit with the tokens of a line behind its own."""
    media = unit_of(number, start, generator)
    line = unit_of(number, start, generator, video=0, audio=count)
    offset = 10 + reach * torch.arange(count)
    kind = torch.full((count,), int(Modality.SUBTITLE), dtype=torch.int8)
    return media.followed_by(dataclasses.replace(line, offset=offset, time=offset + start, modality=kind))


@pytest.mark.parametrize("tokens", [3, 9, 20, 41, 1000])
@pytest.mark.parametrize("reach", [1, 40])
def test_a_quarter_of_the_memory_is_for_lines(tokens, reach):
    policy, generator = MemoryBank(4, tokens, 4.0), torch.Generator().manual_seed(5)
    held, start = HeldTokens.empty(), 0
    for number in range(12):
        plan = policy.plan(held, Clock(number, SECONDS, IDS, start, (32, 50)))
        before = held
        held = dataclasses.replace(held.rows(plan.keep), time=plan.time)
        old = before.unit < number - 1
        counts = []
        for kind in (Modality.SUBTITLE, Modality.VIDEO, Modality.AUDIO):
            rated = sorted(
                (-score_of(before, i), i) for i in range(len(before)) if old[i] and before.modality[i] == kind
            )
            counts.append(sum(bool(plan.keep[i]) for _, i in rated))
            assert {i for _, i in rated if plan.keep[i]} == {i for _, i in rated[: counts[-1]]}
        text, video, audio = counts
        old_text = int((old & (before.modality == Modality.SUBTITLE)).sum())
        assert text == min(tokens // 4, old_text)
        rest = tokens - text
        assert video == min(rest - rest // 2, int((old & (before.modality == Modality.VIDEO)).sum()))
        assert audio == min(rest // 2, int((old & (before.modality == Modality.AUDIO)).sum()))
        # The memory ends before the window, also where lines reach beyond their unit.
        is_old = held.unit < number - 1
        if bool(is_old.any()) and bool((~is_old).any()):
            assert int(held.time[is_old].max()) < int(held.time[~is_old].min())
        held, start = held.followed_by(lined_unit(number, plan.start, generator, 5, reach)), plan.start + IDS


@pytest.mark.parametrize("span", [2.0, 8.0])
def test_without_old_lines_nothing_changes(span):
    """Lines in the window alone move nothing else, and drop nothing."""
    policy = MemoryBank(4, 12, span)
    held = HeldTokens.empty()
    for number in range(9):
        held = held.followed_by(unit_of(number, number * IDS, torch.Generator().manual_seed(number)))
    lines = lined_unit(8, 8 * IDS, torch.Generator().manual_seed(8), 7, 30).rows(torch.arange(14, 21))
    clock = Clock(9, SECONDS, IDS, 9 * IDS, (32, 50))
    without, both = policy.plan(held, clock), policy.plan(held.followed_by(lines), clock)
    assert both.keep.tolist() == without.keep.tolist() + [True] * 7
    assert both.time[:-7].tolist() == without.time.tolist()
    assert both.start == without.start


def test_nested_budgets_keep_lines_as_sound():
    """The highest ranks of their chunk, by the fraction of audio."""
    generator = torch.Generator().manual_seed(6)
    held = lined_unit(0, 0, generator, 12)
    rank = torch.cat([torch.arange(14), torch.arange(12)])
    held = dataclasses.replace(held, rank=rank, size=torch.cat([torch.full((14,), 50), torch.full((12,), 12)]))
    clock = Clock(3, SECONDS, IDS, 3 * IDS, (32, 50))
    for retain in (0.1, 0.2, 0.5, 1.0):
        plan = NestedBudgets([(2, None), (60, retain)]).plan(held, clock)
        _, audio = Budget(retain=retain).rates(*clock.sizes)
        kept = held.rows(plan.keep)
        ranks = kept.rank[kept.modality == Modality.SUBTITLE]
        assert ranks.tolist() == list(range(12 - int(12 * (1 - audio) + 1e-9)))
