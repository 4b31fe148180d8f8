"""Distillation moves the selector towards what the model looks at; both estimators touch what they should."""

import copy
import dataclasses

import numpy as np
import torch

from omnisift.training.host import language_model_of
from omnisift.training.packed import make_batch
from omnisift.training.selections import random
from omnisift.training.selector import distil, kept_events, new_selector, straight_through, teach
from omnisift.training.settings import NanoSettings
from omnisift.training.teacher import eager_attention, looked_at

SETTINGS = dataclasses.replace(NanoSettings(), selector_steps=3, teacher_clips=16, clips_per_step=2, questions=3)


def test_the_teacher_reads_attention_and_puts_the_model_back(model, layout, writer, bank):
    batch = make_batch(bank, [0, 1], writer, 4, np.random.default_rng(0))
    with eager_attention(model):
        target = looked_at(model, layout, batch)
    assert language_model_of(model).config._attn_implementation == "sdpa"
    assert target.shape == (2, 150)
    assert ((target >= 0) & (target <= 1)).all()
    assert torch.allclose(target.amax(1), torch.ones(2))


def test_the_teacher_takes_the_largest_over_questions(model, layout, writer, bank):
    batch = make_batch(bank, [0], writer, 1, np.random.default_rng(0))
    with eager_attention(model):
        one = looked_at(model, layout, batch)
        twice = {name: torch.cat([batch[name]] * 2, dim=1) for name in ("tail", "offset", "labels", "kind")}
        twice["segment"] = torch.cat([batch["segment"], batch["segment"] + 1], dim=1)
        two = looked_at(model, layout, batch | twice)
        every = looked_at(model, layout, batch, with_pointer_head=True)
    assert torch.allclose(one, two, atol=1e-5)
    assert not torch.allclose(one, every, atol=1e-3)


def test_distillation_changes_the_selector_only(model, layout, writer, bank):
    selector = new_selector(128, True, 0)
    before, nano = copy.deepcopy(selector.state_dict()), copy.deepcopy(model.state_dict())
    targets = teach(model, layout, writer, bank, SETTINGS)
    assert targets.shape == (16, 150)
    distil(selector, targets, bank, SETTINGS)
    assert not torch.equal(before["a_proj.weight"], selector.a_proj.weight)
    assert all(torch.equal(value, nano[name]) for name, value in model.state_dict().items())


def test_straight_through_reaches_selector_and_model_but_no_encoder(model, layout, writer, bank):
    selector = new_selector(128, False, 0)
    before, nano = copy.deepcopy(selector.state_dict()), copy.deepcopy(model.state_dict())
    weight = language_model_of(model).layers[0].mlp.up_proj.weight
    started = weight.detach().clone()
    straight_through(selector, model, layout, writer, bank, SETTINGS, steps=2)
    after = model.state_dict()
    assert not torch.equal(before["score_head.0.weight"], selector.score_head[0].weight)
    assert not torch.equal(started, weight)
    assert all(torch.equal(nano[n], after[n]) for n in nano if "visual" in n or "audio_tower" in n)


def test_a_random_selection_keeps_its_share_of_everything(bank):
    shares = kept_events(random(0.5), bank, 0.5, clips=20)
    assert all(0.35 < shares[name] < 0.65 for name in ("relevant", "distractor", "silent"))
