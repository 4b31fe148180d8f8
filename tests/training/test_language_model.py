"""A few steps of the real trainer: losses are finite, the encoders stay, and a resumed run goes on as if unbroken."""

import dataclasses

import pytest
import torch

from omnisift.training import language_model
from omnisift.training.evaluate import accuracies
from omnisift.training.host import core_of, language_model_of
from omnisift.training.language_model import Lesson, PackedClips, Student, start_embeddings, student_loss
from omnisift.training.losses import Hints
from omnisift.training.nano_model import build_model
from omnisift.training.schedule import Clock, rate_factor
from omnisift.training.settings import NanoSettings


@pytest.fixture
def lesson(bank, layout, writer):
    settings = dataclasses.replace(NanoSettings(), clips_per_step=2, questions=3)
    return Lesson(bank, layout, writer, settings, steps=3, rate=1e-3, full_share=0.5, retains=(0.25,), warmup=1)


def student(tokenizer, bank):
    nano = build_model(tokenizer)
    start_embeddings(nano, tokenizer, bank, 0.15, 0)
    torch.manual_seed(1)
    return Student(nano, Hints(128, tokenizer))


def test_all_parts_of_the_loss_are_there_and_reach_the_model(tokenizer, bank, lesson):
    pupil = student(tokenizer, bank)
    loss, parts = student_loss(pupil, lesson, PackedClips(dataclasses.replace(lesson, full_share=1.0))[0], None)
    loss.backward()
    assert {"answer", "end", "visible", "lens", "pointer", "argument"} <= parts.keys()
    assert all(value == value for value in parts.values())
    assert language_model_of(pupil.nano).layers[0].mlp.up_proj.weight.grad.abs().sum() > 0
    assert core_of(pupil.nano).visual.merger.mlp[0].weight.grad is None


def test_three_steps_resume_to_the_same_weights(tokenizer, bank, lesson, tmp_path, monkeypatch):
    plain = language_model.arguments

    def every_step(lesson, folder):
        options = plain(lesson, folder)
        options.save_steps, options.save_total_limit = 2, None
        return options

    monkeypatch.setattr(language_model, "arguments", every_step)
    first = student(tokenizer, bank)
    before = core_of(first.nano).visual.merger.mlp[0].weight.clone()
    language_model.train_language_model(first.nano, first.hints, lesson, bank, tmp_path)
    assert torch.equal(before, core_of(first.nano).visual.merger.mlp[0].weight)
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint-2", "checkpoint-3"}

    (tmp_path / "checkpoint-3" / "trainer_state.json").unlink()  # as if killed while saving
    again = student(tokenizer, bank)
    language_model.train_language_model(again.nano, again.hints, lesson, bank, tmp_path)
    for name, value in first.nano.state_dict().items():
        assert torch.allclose(value, again.nano.state_dict()[name], atol=1e-6), name


def test_words_that_name_things_start_at_class_means(tokenizer, bank):
    nano = student(tokenizer, bank).nano
    weight = nano.get_input_embeddings().weight
    assert nano.lm_head.weight is weight
    red = weight[tokenizer.convert_tokens_to_ids("red")]
    assert red.square().mean().sqrt().item() == pytest.approx(0.15, rel=1e-3)


def test_accuracy_counts_every_type(model, layout, writer, bank):
    result = accuracies(model, layout, writer, bank, clips=4)
    assert len(result) == 9
    assert all(0 <= value <= 1 for value in result.values())


def test_the_rate_rises_stays_and_falls():
    assert rate_factor(0, 0.0) == pytest.approx(0.01)
    assert rate_factor(500, 0.3) == 1.0
    assert rate_factor(900, 0.8) == pytest.approx(0.5)
    assert rate_factor(999, 1.0) == 0.02


def test_the_clock_counts_steps_or_minutes():
    assert Clock(10).progress(5) == 0.5
    assert Clock(10, minutes=2.0, spent=1.5).progress(1) == pytest.approx(0.75)
    state = Clock(10, 2.0, spent=1.5).state()
    assert Clock.from_state(state).spent == 1.5
