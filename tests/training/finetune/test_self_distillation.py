"""Self-distillation: the teacher, the model's own answers, a budget that falls, resuming, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from omnisift.errors import UsageError
from omnisift.models.prompt_cut import IGNORE_INDEX
from omnisift.training.data import read_rows
from omnisift.training.data.unanswered import NO_ANSWER
from omnisift.training.finetune import TrainRecipe, fine_tune, load_train_recipe
from omnisift.training.finetune.building import build
from omnisift.training.finetune.compressed_model import row_losses
from omnisift.training.finetune.run import make_collator
from omnisift.world.dataset import write_dataset

ROOT = Path(__file__).parents[3]
TRAINS = {
    "full": {"gradient_checkpointing": True},
    "lora": {"language": "lora", "gradient_checkpointing": True},
    "frozen": {"language": "frozen", "train_selector": True, "compressor": "omnisift"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows without any answer."""
    folder = tmp_path_factory.mktemp("world")
    write_dataset(folder, clips=3, seed=0, questions_per_clip=2, step=lambda: None)
    rows = []
    for row in map(json.loads, (folder / "metadata.jsonl").read_text().splitlines()):
        asked = [pair["question"] for pair in row["qa"]]
        rows += [{"file_name": row["file_name"], "qa": [{"question": asked[0]}]}]
        rows += [{"messages": [{"role": "user", "content": asked[1]}], "videos": [row["file_name"]]}]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def recipe(data: Path, out: Path, **changes: Any) -> TrainRecipe:
    values = {"compressor": "resift", "selector": None, "retain": 0.1, "max_steps": 4, "learning_rate": 1e-3}
    values |= {"loss": "self_distillation", "answers_from": "model", "max_new_tokens": 8}
    return TrainRecipe(
        "nano", (str(data),), str(out), **{**values, "per_device_train_batch_size": 2, "save_steps": 2, **changes}
    )


def log_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", TRAINS)
def test_the_teacher_is_the_untrained_model_with_all_tokens(name: str, data: Path, tmp_path: Path) -> None:
    """Whatever the trained weights are; on a batch of two rows of different lengths."""
    settings = recipe(data, tmp_path, **TRAINS[name])
    host, model = build(settings)
    samples = read_rows([data], answered=False).samples
    batch = make_collator(settings, host.processor)(samples[:2])
    batch.pop("skipped")
    _, plain = build(recipe(data, tmp_path, language="frozen", train_selector=True, compressor="omnisift"))
    plain.attachment.detach()
    inputs = {key: value for key, value in batch.items() if key not in ("labels", "frame_seconds")}
    with torch.no_grad():
        logits = plain.eval().thinker(**inputs).logits
        for parameter in (p for n, p in model.named_parameters() if p.requires_grad and "selector" not in n):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)), alpha=0.1)
    model.train()
    wanted = logits[:, :-1][batch["labels"][:, 1:] != IGNORE_INDEX].log_softmax(dim=-1)
    found = model._teacher_scores(batch["labels"], inputs)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert not found.requires_grad
    # The pass leaves nothing behind: the student reads the compressed prompt, with its adapters, and learns.
    loss = model(**batch).loss
    assert model.attachment.last.retained_ratio < 0.2
    assert float(loss.detach()) > 1e-4
    loss.backward()
    assert any(float(p.grad.abs().sum()) > 0 for p in model.parameters() if p.grad is not None)
    # An evaluation measures the answers, not the divergence.
    model.eval()
    with torch.no_grad():
        measured = float(model(**batch).loss)
    assert measured != pytest.approx(float(loss.detach()), rel=0.1)


def test_the_divergence_of_a_row() -> None:
    logits, labels = torch.randn(2, 5, 7), torch.full((2, 5), IGNORE_INDEX)
    labels[0, 2:4], labels[1, 4] = 3, 1
    teacher = torch.randn(3, 7).log_softmax(dim=-1)
    sums, counts = row_losses(logits, labels, teacher)
    scores = logits.log_softmax(dim=-1)
    pairs = [(0, 1, 0), (0, 2, 1), (1, 3, 2)]  # row, place of the logits, label
    wanted = [(teacher[n].exp() * (teacher[n] - scores[row, place])).sum() for row, place, n in pairs]
    torch.testing.assert_close(sums, torch.stack([wanted[0] + wanted[1], wanted[2]]))
    assert counts.tolist() == [2, 1]


def test_rows_without_answers_and_a_run_that_resumes(data: Path, tmp_path: Path) -> None:
    """The fraction falls, evaluations use the last one, and an interrupted run takes the steps of a complete one."""
    valid = tmp_path / "valid"
    write_dataset(valid, clips=1, seed=9, questions_per_clip=1, step=lambda: None)
    settings = {"retain_start": 0.5, "language": "lora", "eval_data": (str(valid),), "eval_steps": 2}
    report = fine_tune(recipe(data, tmp_path / "run", **settings))
    lines = log_of(tmp_path / "run")
    kept = [line["retained_ratio"] for line in lines if "loss" in line]
    assert kept[0] == pytest.approx(0.5, abs=0.05)
    assert kept[0] > kept[1] > kept[2] == kept[3] == pytest.approx(0.11, abs=0.02)
    answers = [json.loads(line) for line in (tmp_path / "run" / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == report.samples == 6
    assert all(answer["answer"] not in ("", NO_ANSWER) for answer in answers)
    # Killed after the second step, in the middle of writing an answer.
    run = tmp_path / "run"
    saved = (run / "model" / "model.safetensors").read_bytes()
    for lost in ("model", "checkpoint-4"):
        shutil.rmtree(run / lost)
    whole = (run / "answers.jsonl").read_text()
    (run / "answers.jsonl").write_text(whole[: len(whole) // 2])
    fine_tune(recipe(data, run, **settings))
    assert (run / "answers.jsonl").read_text() == whole
    assert [line.get("loss") for line in log_of(run)] == [line.get("loss") for line in lines]
    assert (run / "model" / "model.safetensors").read_bytes() == saved


def test_a_row_that_gets_no_answer_is_skipped_and_named(data: Path, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "How many shapes?"}], "videos": ["gone.mp4"]}]
    rows += [rows[0] | {"videos": [str(data / "clip-000000.mp4")]}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = fine_tune(recipe(path, tmp_path / "run", max_steps=1))
    assert (list(report.skipped), report.samples) == (["rows.jsonl:1"], 2)
    (tmp_path / "run" / "answers.jsonl").write_text('{"key": 3}\n')
    with pytest.raises(UsageError, match=r"answers\.jsonl:1 is no answer of a run; delete the line"):
        fine_tune(recipe(path, tmp_path / "run", max_steps=2))
    path.write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(UsageError, match="no row has an answer of the model; the first: "):
        fine_tune(recipe(path, tmp_path / "none", max_steps=1))
    with pytest.raises(UsageError, match="no assistant turn"):
        fine_tune(recipe(path, tmp_path / "data", answers_from="data"))


OPEN_ROWS = {
    "messages": {"messages": [{"role": "user", "content": "q"}]},
    "sharegpt": {"conversations": [{"from": "human", "value": "q"}]},
    "history": {"messages": [{"role": r, "content": r} for r in ("system", "user", "assistant", "user")]},
    "human": {"conversation": [{"human": "q", "assistant": "a"}, {"human": "r"}]},
    "query": {"query": "q"},
    "empty response": {"query": "q", "response": ""},
    "instruction": {"instruction": "q", "input": "r"},
    "folder": {"file_name": "clip.mp4", "qa": [{"question": "q"}, {"question": "r", "answer": "a"}]},
    "folder, one question": {"file_name": "clip.mp4", "question": "q"},
}


@pytest.mark.parametrize("name", OPEN_ROWS)
def test_rows_of_every_form_may_lack_the_last_answer(name: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(OPEN_ROWS[name]) + "\n")
    samples = read_rows([path], answered=False).samples
    assert samples[0].turns[-1].text == NO_ANSWER
    assert all(sample.turns[-1].role == "assistant" for sample in samples)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "loss": ({"loss": "kl"}, "loss must be one of answers, self_distillation"),
    "source": ({"answers_from": "teacher"}, "answers_from must be one of data, model"),
    "needless answers": ({"loss": "answers"}, "answers_from is model and loss answers"),
    "below": ({"retain_start": 0.1}, "retain_start must be above the fraction kept, 0.1"),
    "all": ({"retain_start": 1.0}, "retain_start must be above"),
    "tokens": ({"retain": None, "tokens": 60, "retain_start": 0.5}, "retain_start is a fraction and tokens a number"),
    "ratio": ({"retain_start": 0.5, "retain_fall_ratio": 0.0}, "retain_fall_ratio must be above 0"),
    "lone ratio": ({"retain_fall_ratio": 0.3}, "retain_fall_ratio is given without retain_start"),
    "lone length": ({"answers_from": "data"}, "max_new_tokens is given without answers_from: model"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_are_refused_before_anything_is_written(name: str, data: Path, tmp_path: Path) -> None:
    changes, says = WRONG[name]
    with pytest.raises(UsageError, match=says):
        fine_tune(
            recipe(
                data if changes.get("answers_from") != "data" else write_valid(tmp_path), tmp_path / "run", **changes
            )
        )
    assert not (tmp_path / "run").exists()


def write_valid(folder: Path) -> Path:
    write_dataset(folder / "valid", clips=1, seed=0, questions_per_clip=1, step=lambda: None)
    return folder / "valid"


def test_the_bundled_recipe_learns(data: Path, tmp_path: Path) -> None:
    changes = {"data": [str(data)], "output_dir": str(tmp_path / "run"), "max_steps": 4, "save_steps": 4}
    report = fine_tune(load_train_recipe(ROOT / "recipes/train/self-distillation.yaml", changes))
    assert report.finished
    losses = [line["loss"] for line in log_of(tmp_path / "run")]
    assert all(loss > 0 for loss in losses)
