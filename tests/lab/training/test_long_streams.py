"""Batches of streams hold what sessions hold, row by row, and the language model learns through them."""

import json

import numpy as np
import pytest
import torch

from omnisift.lab import nano_long
from omnisift.lab.nano import load_thinker
from omnisift.lab.training.long_streams import LongSettings, stream_accuracies, stream_loss
from omnisift.lab.training.packed import TYPE_WEIGHTS, Writer
from omnisift.lab.training.stream_bank import BUDGETS, StreamBank
from omnisift.lab.training.stream_batches import StreamBatch, draw_row
from omnisift.lab.training.stream_policies import SHARINGS, TriedMemory, any_policy
from omnisift.models.cached_prompt import cache_argument
from omnisift.models.prompt_cut import IGNORE_INDEX
from omnisift.pipeline.loading import load_host
from omnisift.streaming.cache import StreamCache
from omnisift.streaming.policies import Clock, HeldTokens, KeepAll, MemoryBank, NestedBudgets, SlidingWindow
from omnisift.tokens import Modality
from omnisift.utils.assets import bundled_path


@pytest.fixture(scope="module")
def nano():
    return load_thinker(bundled_path("nano")).eval()


@pytest.fixture(scope="module")
def writer():
    return Writer(load_host("nano", "cpu", None, None).processor.tokenizer)


@pytest.fixture(scope="module")
def bank(nano, writer):
    return StreamBank.build(nano, writer.tokenizer, "validation", "base", [1, 2, 1, 2], 16, tuple(BUDGETS))


def rows_of(bank, writer, count, clips=4, budget="25%"):
    return [draw_row(bank, writer, np.random.default_rng(i), budget, clips, 3, TYPE_WEIGHTS) for i in range(count)]


def test_units_hold_the_budget(bank):
    for budget, options in BUDGETS.items():
        for unit in (u for event in bank.events for clip in event.units[budget] for u in clip):
            kept = torch.bincount(unit.segment, minlength=3)
            assert unit.full.tolist() == [16, 16, 50]
            if options is None:
                assert kept.tolist() == [16, 16, 50]
            else:
                assert abs(int(kept.sum()) - options[0] * 82) < 2
            assert int(unit.offset.max()) < 50
            assert bool(unit.within(0.1).sum() <= 10)


@pytest.mark.parametrize(
    "policy",
    [KeepAll(), SlidingWindow(4), NestedBudgets(((4, None), (8, 0.1), (90, 0.05))), MemoryBank(4, 24, 3.0)],
    ids=lambda policy: type(policy).__name__,
)
@torch.no_grad()
def test_a_row_is_what_a_session_holds(nano, bank, writer, policy):
    rows = rows_of(bank, writer, 2)
    batch = StreamBatch(nano, bank.frame, [KeepAll(), policy])
    for number in range(len(rows[0].units)):
        batch.add([row.units[number] for row in rows])
    states, tails = batch.ask([row.segments for row in rows])
    expected, tokens = plain_loop(nano, bank.frame, policy, rows[1])
    assert batch.tokens[1] == tokens
    due = tails["labels"][1] != IGNORE_INDEX
    torch.testing.assert_close(states[1][due], expected, atol=2e-4, rtol=1e-3)


def plain_loop(model, frame, policy, row):
    """One stream in the cache of a session, and its questions one by one."""
    language = model.model.language_model
    cache = StreamCache(language, keeps_read=False)
    cache.append(language.embed_tokens(frame.layout.ids[: frame.first]), frame.layout.position[:, : frame.first])
    cache.fix()
    held, read, start = HeldTokens.empty(), torch.zeros(0, dtype=torch.int64), 0
    for number, unit in enumerate(row.units):
        plan = policy.plan(held, Clock(number, 2.0, 50, start, (32, 50)))
        cache.select(torch.nonzero(plan.keep)[:, 0])
        held, read = held.rows(plan.keep), read[plan.keep]
        if plan.time is not None:
            held = HeldTokens(**{**vars(held), "time": plan.time})
            far = plan.time - read
            sound = held.modality == Modality.AUDIO
            cache.move(torch.stack([far, far * sound, far * sound]))
        time = plan.start + unit.offset
        cache.append(unit.embeds, frame.origin + torch.stack([time, *torch.where(unit.sound, time, unit.place)]))
        kind = torch.where(unit.sound, 2, 1).to(torch.int8)
        size = unit.full[unit.segment]
        new = HeldTokens(torch.full_like(time, number), unit.offset, time, kind, unit.score, unit.rank, size)
        held, read, start = held.followed_by(new), torch.cat([read, time]), plan.start + 50
    states = []
    end = frame.origin + start
    for segment in row.segments:
        words = segment.prompt + segment.answer[:-1]
        ids = torch.cat([frame.closing, torch.tensor(words)])
        position = torch.cat([end + frame.closing_at, end + frame.question_at + torch.arange(len(words))])
        output = language(
            inputs_embeds=language.embed_tokens(ids)[None],
            position_ids=position.expand(3, 1, -1),
            use_cache=True,
            **cache_argument(language, cache.fork()._cache),
        )
        states.append(output.last_hidden_state[0, len(frame.closing) + len(segment.prompt) - 1 :])
    return torch.cat(states), len(cache)


@torch.no_grad()
def test_questions_leave_no_trace(nano, bank, writer):
    (row,) = rows_of(bank, writer, 1)
    batch = StreamBatch(nano, bank.frame, [MemoryBank(4, 24, 3.0)])
    for unit in row.units[:-1]:
        batch.add([unit])
    first, _ = batch.ask([row.segments])
    again, _ = batch.ask([row.segments])
    assert torch.equal(first, again)
    batch.add([row.units[-1]])
    assert batch.start[0] > 0


def test_training_reaches_every_layer(nano, bank, writer):
    settings = LongSettings(streams=3, questions=4, clips=4, short_share=0.0)
    nano.requires_grad_(True)
    loss, parts = stream_loss(nano, bank, writer, settings, TYPE_WEIGHTS, 0)
    loss.backward()
    again, _ = stream_loss(nano, bank, writer, settings, TYPE_WEIGHTS, 0)
    assert float(again.detach()) == pytest.approx(float(loss.detach()))
    assert set(parts) <= set(TYPE_WEIGHTS)
    for name, parameter in nano.model.language_model.layers.named_parameters():
        assert float(parameter.grad.abs().max()) > 0, name
    nano.zero_grad()


def test_accuracy_on_clips_is_that_of_nano(nano, bank, writer):
    result = stream_accuracies(nano, bank, writer, KeepAll(), budget="all")
    assert result["mean"] > 0.8
    assert stream_accuracies(nano, bank, writer, SlidingWindow(2), after=2)["color_of_shape"] < 0.8


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("whole", [False, True])
def test_a_memory_holds_its_sizes(bank, sharing, whole):
    policy = TriedMemory(2, 7, 5, 60, sharing, seen=1.0, whole=whole, most=3, noise=0.1)
    held, start = HeldTokens.empty(), 0
    units = [u for event in bank.events for clip in event.units["25%"] for u in clip]
    for number, unit in enumerate(units):
        plan = policy.plan(held, Clock(number, 2.0, 50, start, (32, 50)))
        held = held.rows(plan.keep)
        if plan.time is not None:
            held = HeldTokens(**{**vars(held), "time": plan.time})
        old = held.unit < number - 1
        sound = held.modality == Modality.AUDIO
        assert int((old & ~sound).sum()) <= 7
        assert int((old & sound).sum()) <= 5
        assert all(int((held.unit[old & sound] == u).sum()) <= 3 for u in range(number))
        if bool(old.any()):
            assert int(held.time[old].max()) < 60
            assert bool((held.time[old & sound].diff() >= 0).all())
            assert int(held.time[~old].min()) >= int(held.time[old].max())
        time, kind = plan.start + unit.offset, torch.where(unit.sound, 2, 1).to(torch.int8)
        number_of = torch.full_like(time, number)
        held = held.followed_by(
            HeldTokens(number_of, unit.offset, time, kind, unit.score, unit.rank, unit.full[unit.segment])
        )
        start = plan.start + 50


def test_policies_at_random_are_of_every_kind():
    rng = np.random.default_rng(0)
    kinds = {type(any_policy(21, rng)) for _ in range(200)}
    assert kinds == {KeepAll, SlidingWindow, NestedBudgets, TriedMemory}


@pytest.mark.slow
def test_a_small_run_writes_a_checkpoint(tmp_path, caplog):
    nano_long.main(["--small", "--out", str(tmp_path)])
    recipe = json.loads((tmp_path / "checkpoint" / "recipe.json").read_text(encoding="utf-8"))
    assert set(recipe["measured"]) == {"before", "after"}
    model = load_thinker(tmp_path / "checkpoint")
    nano = load_thinker(bundled_path("nano"))
    same = nano.model.visual.state_dict()
    for name, tensor in model.model.visual.state_dict().items():  # encoders stay, but for rounding
        torch.testing.assert_close(tensor.float(), same[name], atol=1e-2, rtol=1e-2)
