"""Fine-tuning of every family: a tiny random checkpoint with its own processor, and generated clips."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.family_folders import FACTORS, save_family
from transformers import AutoProcessor
from typer.testing import CliRunner

import omnisift
from omnisift.cli.app import app
from omnisift.pipeline import Pipeline
from omnisift.training.data import Turn
from omnisift.training.finetune import TrainRecipe, fine_tune
from omnisift.training.finetune.building import build
from omnisift.training.finetune.run import make_collator, read_data
from omnisift.world.dataset import write_dataset

FAST = ["qwen3_omni_moe_thinker", "qwen3_vl"]
ALL = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in FACTORS]
OMNI = "qwen3_omni_moe_thinker"
QUESTION = "What colour is the circle?"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_dataset(folder, clips=2, seed=0, questions_per_clip=2, step=lambda: None)
    return folder


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's checkpoint, made when it is asked for."""
    root = tmp_path_factory.mktemp("families")

    def folder(name: str) -> Path:
        return root / name if (root / name).exists() else save_family(name, root / name)

    return folder


def recipe(name: str, model: Path, data: Path, out: Path, **changes: Any) -> TrainRecipe:
    values: dict[str, Any] = {"compressor": "v_cast", "retain": 0.25, "max_steps": 2, "learning_rate": 1e-2}
    values |= {"per_device_train_batch_size": 2, "max_pixels": 16 * FACTORS[name] ** 2, "fps": 1.0, "warmup_ratio": 0.0}
    return TrainRecipe(str(model), (str(data),), str(out), **{**values, **changes})


def curve(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if "runtime" not in name} for line in lines]


MODES: dict[str, dict[str, Any]] = {
    "full": {"gradient_checkpointing": True},
    "lora": {"language": "lora", "lora_rank": 4, "compressor": "stvp"},
    "frozen": {"language": "frozen", "compressor": "omnisift", "selector": "new", "train_selector": True,
               "estimator": "straight_through"},
}  # fmt: skip


@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("name", ALL)
def test_a_trained_model_answers_as_it_did_in_memory(
    name: str, mode: str, folder_of: Callable[[str], Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = recipe(name, folder_of(name), data, tmp_path / "run", **MODES[mode])
    check_answers(settings, data, monkeypatch)
    moved = changed(folder_of(name), tmp_path / "run" / "model")
    assert any("language_model.layers" in parameter for parameter in moved)
    assert not any("visual" in parameter or "audio_tower" in parameter for parameter in moved)


def test_the_selector_of_qwen3_omni_learns_alone(
    folder_of: Callable[[str], Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = recipe(OMNI, folder_of(OMNI), data, tmp_path / "run", **MODES["frozen"])
    check_answers(settings, data, monkeypatch)
    assert not changed(folder_of(OMNI), tmp_path / "run" / "model")
    assert all(line["selector_grad_norm"] > 0 for line in curve(tmp_path / "run"))
    model = tmp_path / "run" / "model"
    command = ["ask", str(data / "clip-000000.mp4"), QUESTION, "--model", str(model), "--max-new-tokens", "2"]
    result = CliRunner().invoke(app, [*command, "--max-pixels", str(settings.max_pixels)])
    assert result.exit_code == 0, result.output


def check_answers(settings: TrainRecipe, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, and compare answers and logits of the model in memory with those of the saved one."""
    from omnisift.training.finetune import run

    built = list[Any]()
    monkeypatch.setattr(run, "build", lambda *args: built.append(build(*args)) or built[-1])
    report = fine_tune(settings)
    assert report.finished
    assert not report.skipped
    assert report.retained_ratio < 0.4
    assert all(line["loss"] > 0 and line["grad_norm"] > 0 for line in curve(Path(settings.output_dir)))
    host, model = built[0]
    model.attachment.detach()
    options = {"max_pixels": settings.max_pixels, "fps": settings.fps, "max_new_tokens": 6}
    in_memory = Pipeline(replace(host, thinker=host.thinker.eval()), model.compressor)
    loaded = omnisift.load(report.model, compressor=settings.compressor, retain=settings.retain)
    for clip in sorted(data.glob("*.mp4")):
        expected, found = (pipe.ask(clip, QUESTION, **options) for pipe in (in_memory, loaded))
        assert found.text == expected.text
        assert found.report.tokens == expected.report.tokens
    states = (pipe.host.thinker.state_dict() for pipe in (in_memory, loaded))
    first, second = ({name.replace(".base_layer", ""): value for name, value in state.items()} for state in states)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], value) for name, value in second.items())


def changed(before: Path, after: Path) -> set[str]:
    old, new = (omnisift.load(folder, compressor=None).host.thinker.state_dict() for folder in (before, after))
    return {name for name, value in old.items() if not torch.equal(value, new[name])}


@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("name", ALL)
def test_a_stopped_run_resumes_to_the_same_curve(
    name: str, mode: str, folder_of: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    changes = MODES[mode] | {"max_steps": 2, "save_steps": 1}
    settings = recipe(name, folder_of(name), data, tmp_path / "whole", **changes)
    fine_tune(settings)
    parts = replace(settings, output_dir=str(tmp_path / "parts"))
    # The schedule of a run that is stopped knows the full length; a copy of its first checkpoint is what it leaves.
    fine_tune(parts)
    for path in (tmp_path / "parts" / "checkpoint-2", tmp_path / "parts" / "model"):
        shutil.rmtree(path)
    fine_tune(parts)
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    weights = "model/model.safetensors"
    assert (tmp_path / "parts" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


@pytest.mark.parametrize("name", ALL)
def test_answers_are_generated_for_validation(
    name: str, folder_of: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    """Clips, and rows of text beside them."""
    more = {"max_steps": 1, "eval_data": (str(data),), "per_device_eval_batch_size": 3}
    report = fine_tune(recipe(name, folder_of(name), data, tmp_path / "run", **more))
    assert report.eval_loss is not None
    assert report.eval_accuracy is not None


@pytest.mark.parametrize("name", ALL)
def test_labels_are_the_answers(name: str, folder_of: Callable[[str], Path], data: Path, tmp_path: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder_of(name))
    collator = make_collator(recipe(name, folder_of(name), data, tmp_path / "run"), processor)
    samples = read_data(recipe(name, folder_of(name), data, tmp_path / "run"))[0].samples
    turns = Turn("user", "red"), Turn("assistant", "blue"), *samples[0].turns, Turn("user", "red")
    later = replace(samples[0], id="later", turns=turns, clip_at=(2, 0))
    words = replace(samples[0], id="words", media=None)
    rows = [samples[0], later, words]
    batch = collator(rows)
    assert not batch["skipped"]
    assert len(batch["frame_seconds"]) == 2
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    for sample, labels in zip(rows, batch["labels"], strict=True):
        answers = "".join(turn.text for turn in sample.turns if turn.role == "assistant").replace(" ", "")
        learned = labels[labels != -100]
        assert processor.tokenizer.decode(learned, skip_special_tokens=True).replace(" ", "") == answers
        assert int((learned == end).sum()) == sum(turn.role == "assistant" for turn in sample.turns)
    assert ("mm_token_type_ids" in batch) == (name != OMNI)
    assert ("use_audio_in_video" in batch) == (name == OMNI)
