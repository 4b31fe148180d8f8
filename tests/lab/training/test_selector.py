"""Distillation and straight-through training change the intended weights only."""

import copy
import dataclasses

import numpy as np
import torch

from omnisift.lab.training.feature_cache import FeatureCache
from omnisift.lab.training.forward import KeptTokens
from omnisift.lab.training.nano_model import language_model_of
from omnisift.lab.training.packed import make_batch
from omnisift.lab.training.selections import omnisift_selection, random_selection
from omnisift.lab.training.selector import attention_targets, distill, kept_events, straight_through
from omnisift.lab.training.settings import NanoSettings
from omnisift.lab.training.teacher import attention_from_answers, eager_attention
from omnisift.models.selector import new_selector

SETTINGS = dataclasses.replace(NanoSettings(), selector_steps=3, teacher_clips=16, clips_per_step=2, questions=3)


def test_the_teacher_reads_attention_and_restores_the_model(model, layout, writer, features):
    batch = make_batch(features, [0, 1], writer, 4, np.random.default_rng(0))
    with eager_attention(model):
        target = attention_from_answers(model, layout, batch)
    assert language_model_of(model).config._attn_implementation == "sdpa"
    assert target.shape == (2, 150)
    assert ((target >= 0) & (target <= 1)).all()
    assert torch.allclose(target.amax(1), torch.ones(2))


def test_the_teacher_takes_the_maximum_over_questions(model, layout, writer, features):
    batch = make_batch(features, [0], writer, 1, np.random.default_rng(0))
    with eager_attention(model):
        single = attention_from_answers(model, layout, batch)
        twice = {name: torch.cat([batch[name]] * 2, dim=1) for name in ("tail", "offset", "labels", "kind")}
        twice["segment"] = torch.cat([batch["segment"], batch["segment"] + 1], dim=1)
        double = attention_from_answers(model, layout, batch | twice)
        every = attention_from_answers(model, layout, batch, with_pointer_head=True)
    assert torch.allclose(single, double, atol=1e-5)
    assert not torch.allclose(single, every, atol=1e-3)


def test_distillation_changes_the_selector_only(model, layout, writer, features):
    selector = new_selector(128, True, 0)
    before, nano = copy.deepcopy(selector.state_dict()), copy.deepcopy(model.state_dict())
    targets = attention_targets(model, layout, writer, features, SETTINGS)
    assert targets.shape == (16, 150)
    distill(selector, targets, features, SETTINGS)
    assert not torch.equal(before["a_proj.weight"], selector.a_proj.weight)
    assert all(torch.equal(value, nano[name]) for name, value in model.state_dict().items())


def test_straight_through_reaches_selector_and_model_but_no_encoder(model, layout, writer, features):
    selector = new_selector(128, False, 0)
    before, nano = copy.deepcopy(selector.state_dict()), copy.deepcopy(model.state_dict())
    weight = language_model_of(model).layers[0].mlp.up_proj.weight
    started = weight.detach().clone()
    straight_through(selector, model, layout, writer, features, SETTINGS, steps=2)
    after = model.state_dict()
    assert not torch.equal(before["score_head.0.weight"], selector.score_head[0].weight)
    assert not torch.equal(started, weight)
    assert all(torch.equal(nano[n], after[n]) for n in nano if "visual" in n or "audio_tower" in n)


def test_a_random_selection_keeps_its_share_of_everything(features):
    shares = kept_events(random_selection(0.5), features, 0.5, clips=20)
    assert all(0.35 < shares[name] < 0.65 for name in ("relevant", "distractor", "silent"))


def test_selections_take_the_shape_of_the_wide_family():
    random = torch.Generator().manual_seed(0)
    video, audio = torch.randn(6, 600, 128, generator=random), torch.randn(6, 150, 128, generator=random)
    features = FeatureCache("train", 0, video.half(), audio.half(), "wide")
    kept = omnisift_selection(new_selector(128, True, 0), 0.1)(video, audio)
    assert kept.video.shape == (6, 6 * 10)
    assert kept.audio.shape == (6, 3 * 5)
    # Shapes without a sound are no events that a selection could keep.
    assert any((owner != 1 + s).all() for owner, scene in zip(features.audio_owner, features.scenes, strict=True)
               for s in range(len(scene.shapes)))  # fmt: skip
    everything = KeptTokens(torch.arange(600).expand(6, -1), torch.arange(150).expand(6, -1))
    assert kept_events(lambda *_: everything, features, 1.0)["events"] == 1.0
