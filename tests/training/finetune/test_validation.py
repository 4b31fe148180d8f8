"""Validation during training: what is measured, when, and which checkpoint becomes the model."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import omnisift
from omnisift.errors import TrainingError, UsageError
from omnisift.evaluation.public.extractors import normalise_answer
from omnisift.training.data import load_samples
from omnisift.training.finetune import TrainRecipe, fine_tune
from omnisift.training.finetune import run as training_run
from omnisift.training.finetune.checkpoints import is_complete
from omnisift.training.finetune.trainer import StopOnSigterm
from omnisift.training.finetune.validation import SHORT_ANSWER, answer_spans, cut_prompts, is_short
from omnisift.world.dataset import write_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_dataset(folder, clips=3, seed=0, questions_per_clip=2, step=lambda: None)
    return folder


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("validation")
    write_dataset(folder, clips=2, seed=50, questions_per_clip=3, step=lambda: None)
    return folder


def recipe(data: Path, held_out: Path, out: Path, **changes: Any) -> TrainRecipe:
    values = {"selector": None, "retain": 0.25, "max_steps": 4, "learning_rate": 1e-3, "save_steps": 2, "seed": 1}
    values |= {"per_device_train_batch_size": 2, "eval_data": (str(held_out),)}
    return TrainRecipe("nano", (str(data),), str(out), **{**values, **changes})


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def measured(out: Path) -> dict[int, dict[str, Any]]:
    return {line["step"]: line for line in lines(out) if "eval_loss" in line}


@pytest.mark.parametrize("changes", [{}, {"language": "lora"}], ids=["full", "lora"])
def test_loss_and_accuracy_are_those_of_the_trained_model(
    changes: dict[str, Any], data: Path, held_out: Path, tmp_path: Path
) -> None:
    report = fine_tune(recipe(data, held_out, tmp_path / "run", per_device_eval_batch_size=3, **changes))
    result = measured(tmp_path / "run")
    assert sorted(result) == [2, 4]
    last = result[4]
    assert (report.eval_loss, report.eval_accuracy) == (last["eval_loss"], last["eval_accuracy"])
    assert last["eval_samples"] == 8
    # The same questions, asked of the saved model through the pipeline.
    pipe = omnisift.load(report.model, compressor="omnisift", retain=0.25)
    short = [sample for sample in load_samples(held_out) if is_short(sample.turns[-1].text)]
    assert last["eval_answers"] == len(short) == 6
    correct = 0
    for sample in short:
        assert sample.media is not None
        answer = pipe.ask(sample.media, sample.turns[-2].text, max_new_tokens=32).text
        correct += normalise_answer(answer) == normalise_answer(sample.turns[-1].text)
    assert last["eval_accuracy"] == correct / len(short)


def test_the_batch_size_does_not_change_the_result(data: Path, held_out: Path, tmp_path: Path) -> None:
    results = []
    for size in (1, 5):
        out = tmp_path / str(size)
        fine_tune(recipe(data, held_out, out, max_steps=1, per_device_eval_batch_size=size))
        results.append(measured(out)[1])
    for name in ("eval_loss", "eval_accuracy", "eval_samples", "eval_answers"):
        assert results[0][name] == pytest.approx(results[1][name], rel=1e-4)


def test_an_evaluation_does_not_change_what_is_learned(data: Path, held_out: Path, tmp_path: Path) -> None:
    fine_tune(recipe(data, held_out, tmp_path / "with", eval_steps=1))
    fine_tune(recipe(data, held_out, tmp_path / "without", eval_data=None))
    name = "model/model.safetensors"
    assert (tmp_path / "with" / name).read_bytes() == (tmp_path / "without" / name).read_bytes()
    assert not measured(tmp_path / "without")


@pytest.fixture(scope="module")
def wrong(data: Path) -> Path:
    """Training data whose answers are wrong, so that each step makes the model worse."""
    turns = [{"role": "user", "content": "What happens?"}, {"role": "assistant", "content": "at 5 white triangle"}]
    path = data / "wrong.jsonl"
    rows = [{"messages": turns, "videos": [clip.name]} for clip in sorted(data.glob("*.mp4"))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def of_the_best(wrong: Path, held_out: Path, out: Path, **changes: Any) -> TrainRecipe:
    values = {"max_steps": 5, "save_steps": 1, "learning_rate": 3e-3, "warmup_ratio": 0.0}
    return recipe(wrong, held_out, out, **values, load_best_model_at_end=True, **changes)


@pytest.mark.parametrize("metric", ["loss", "eval_accuracy"])
def test_the_best_checkpoint_is_kept_and_becomes_the_model(
    metric: str, wrong: Path, held_out: Path, tmp_path: Path
) -> None:
    report = fine_tune(of_the_best(wrong, held_out, tmp_path, metric_for_best_model=metric))
    losses = {step: line["eval_loss"] for step, line in measured(tmp_path).items()}
    accuracies = {step: line["eval_accuracy"] for step, line in measured(tmp_path).items()}
    best = min(losses, key=lambda step: losses[step])
    if metric != "loss":
        best = max(accuracies, key=lambda step: accuracies[step])
    assert best < 4
    assert (report.eval_loss, report.eval_accuracy) == (losses[best], accuracies[best])
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {f"checkpoint-{step}" for step in (best, 4, 5)}
    saved: Any = omnisift.load(report.model).host.thinker
    kept = type(saved).from_pretrained(tmp_path / f"checkpoint-{best}" / "language")
    assert all(torch.equal(saved.state_dict()[name], tensor) for name, tensor in kept.state_dict().items())


def test_killed_before_the_model_is_written_it_saves_the_best(
    wrong: Path, held_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = of_the_best(wrong, held_out, tmp_path)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training_run, "save_model", killed)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(settings)
    assert not (tmp_path / "model").exists()
    report = fine_tune(settings)
    assert report.eval_loss == min(line["eval_loss"] for line in measured(tmp_path).values())
    assert is_complete(tmp_path / "checkpoint-5")


@pytest.mark.slow
def test_an_interrupted_run_measures_what_an_uninterrupted_one_does(
    data: Path, held_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: dict[str, Any] = {"max_steps": None, "num_train_epochs": 2.0, "eval_strategy": "epoch"}
    fine_tune(recipe(data, held_out, tmp_path / "whole", **values))

    class Early(StopOnSigterm):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.05)
            super().on_step_end(args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(training_run, "StopOnSigterm", Early)
        assert not fine_tune(recipe(data, held_out, tmp_path / "parts", **values)).finished
    assert not measured(tmp_path / "parts")  # the signal, not the data, ended the epoch
    assert fine_tune(recipe(data, held_out, tmp_path / "parts", **values)).finished
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    assert len(measured(tmp_path / "whole")) == 2


def test_rows_of_text_and_long_answers_have_a_loss_alone(data: Path, tmp_path: Path) -> None:
    answer = "at 0 red circle, at 1 blue square, at 2 green triangle"
    assert len(answer) > SHORT_ANSWER
    rows = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": answer}]}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = fine_tune(recipe(data, path, tmp_path / "run", max_steps=1))
    assert report.eval_loss is not None
    assert report.eval_accuracy is None
    with pytest.raises(UsageError, match="no row of eval_data has a short answer; use loss"):
        fine_tune(recipe(data, path, tmp_path / "b", load_best_model_at_end=True, metric_for_best_model="accuracy"))
    assert not (tmp_path / "b").exists()


def test_validation_data_without_a_usable_row_is_an_error(data: Path, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "x"}], "videos": ["no.mp4"]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    with pytest.raises(TrainingError, match="no sample of eval_data can be used"):
        fine_tune(recipe(data, tmp_path / "rows.jsonl", tmp_path / "run", max_steps=1))


def test_validation_prompts_must_be_compressed_too(
    data: Path, held_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from omnisift.training.finetune import trainer as module

    evaluate = module.CompressedTrainer.evaluate

    def detached(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.compressed.attachment.detach()
        return evaluate(self, *args, **kwargs)

    monkeypatch.setattr(module.CompressedTrainer, "evaluate", detached)
    with pytest.raises(TrainingError, match="training without compression"):
        fine_tune(recipe(data, held_out, tmp_path, max_steps=1))


def test_the_last_answer_of_each_row() -> None:
    labels = torch.tensor([[-100, 5, -100, -100, 6, 7, -100], [-100] * 7, [-100, -100, -100, -100, -100, 8, 9]])
    assert answer_spans(labels) == [(4, 6), (7, 7), (5, 7)]


def test_prompts_are_cut_and_padded_on_the_left() -> None:
    ids = torch.tensor([[0, 0, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    texts = cut_prompts({"input_ids": ids, "attention_mask": mask, "other": ids}, [5, 2], pad_token_id=9)
    prompts, kept = texts["input_ids"], texts["attention_mask"]
    assert prompts.tolist() == [[3, 4, 5], [9, 1, 2]]
    assert kept.tolist() == [[1, 1, 1], [0, 1, 1]]


@pytest.mark.parametrize(
    ("text", "short"), [("blue", True), (" A. ", True), ("", False), ("  ", False), ("a\nb", False), ("x" * 33, False)]
)
def test_short_answers(text: str, short: bool) -> None:
    assert is_short(text) is short
