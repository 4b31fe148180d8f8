"""A few steps of the real trainer: finite losses, frozen encoders, and resuming."""

import dataclasses

import pytest
import torch

from omnisift.lab.training import language_model
from omnisift.lab.training.evaluate import accuracies
from omnisift.lab.training.language_model import PackedClips, TrainConfig, TrainingNano, init_embeddings, training_loss
from omnisift.lab.training.losses import Hints
from omnisift.lab.training.nano_model import build_model, core_of, language_model_of
from omnisift.lab.training.schedule import RunLimit, rate_factor
from omnisift.lab.training.settings import NanoSettings


@pytest.fixture
def config(features, layout, writer):
    settings = dataclasses.replace(NanoSettings(), clips_per_step=2, questions=3)
    return TrainConfig(
        features,
        layout,
        writer,
        settings,
        max_steps=3,
        learning_rate=1e-3,
        full_share=0.5,
        retains=(0.25,),
        warmup_steps=1,
    )


def training_nano(tokenizer, features):
    nano = build_model(tokenizer)
    init_embeddings(nano, tokenizer, features, 0.15, 0)
    torch.manual_seed(1)
    return TrainingNano(nano, Hints(128, tokenizer))


def test_all_parts_of_the_loss_reach_the_model(tokenizer, features, config):
    module = training_nano(tokenizer, features)
    loss, parts = training_loss(module, config, PackedClips(dataclasses.replace(config, full_share=1.0))[0], None)
    loss.backward()
    assert {"answer", "end", "visible", "lens", "pointer", "argument"} <= parts.keys()
    assert all(value == value for value in parts.values())
    assert language_model_of(module.nano).layers[0].mlp.up_proj.weight.grad.abs().sum() > 0
    assert core_of(module.nano).visual.merger.mlp[0].weight.grad is None


def test_three_steps_resume_to_the_same_weights(tokenizer, features, config, tmp_path, monkeypatch):
    plain = language_model.training_arguments

    def every_step(config, folder):
        options = plain(config, folder)
        options.save_steps, options.save_total_limit = 2, None
        return options

    monkeypatch.setattr(language_model, "training_arguments", every_step)
    first = training_nano(tokenizer, features)
    before = core_of(first.nano).visual.merger.mlp[0].weight.clone()
    language_model.train_language_model(first.nano, first.hints, config, features, tmp_path)
    assert torch.equal(before, core_of(first.nano).visual.merger.mlp[0].weight)
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint-2", "checkpoint-3"}

    (tmp_path / "checkpoint-3" / "trainer_state.json").unlink()  # as if killed while saving
    again = training_nano(tokenizer, features)
    language_model.train_language_model(again.nano, again.hints, config, features, tmp_path)
    for name, value in first.nano.state_dict().items():
        assert torch.allclose(value, again.nano.state_dict()[name], atol=1e-6), name


def test_words_that_name_things_start_at_class_means(tokenizer, features):
    nano = training_nano(tokenizer, features).nano
    weight = nano.get_input_embeddings().weight
    assert nano.lm_head.weight is weight
    red = weight[tokenizer.convert_tokens_to_ids("red")]
    assert red.square().mean().sqrt().item() == pytest.approx(0.15, rel=1e-3)


def test_accuracy_counts_every_type(model, layout, writer, features):
    result = accuracies(model, layout, writer, features, clips=4)
    assert len(result) == 9
    assert all(0 <= value <= 1 for value in result.values())


def test_the_rate_rises_stays_and_falls():
    assert rate_factor(0, 0.0) == pytest.approx(0.01)
    assert rate_factor(500, 0.3) == 1.0
    assert rate_factor(900, 0.8) == pytest.approx(0.5)
    assert rate_factor(999, 1.0) == 0.02


def test_the_limit_counts_steps_or_minutes():
    assert RunLimit(10).progress(5) == 0.5
    assert RunLimit(10, minutes=2.0, spent=1.5).progress(1) == pytest.approx(0.75)
    state = RunLimit(10, 2.0, spent=1.5).state()
    assert RunLimit.from_state(state).spent == 1.5
