"""The formula for memory and operations of a training step against a measured step of nano."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.benchmarks import load_benchmark
from typer.testing import CliRunner

from omnisift.cli.app import app
from omnisift.pipeline.model_source import find_model
from omnisift.profiling.gauges import memory_gauge, torch_counter
from omnisift.training.data import load_samples
from omnisift.training.finetune import TrainRecipe, fine_tune, load_train_recipe, plan_run
from omnisift.training.finetune.building import build
from omnisift.training.finetune.checks import empty_thinker
from omnisift.training.finetune.cost import count_parameters, row_flops, step_memory
from omnisift.training.finetune.plan import matrix_tflops, row_shapes
from omnisift.training.finetune.run import make_collator
from omnisift.world.dataset import write_dataset

FACTOR = 1.5
"""How far the formula may be from a measured step, in either direction; docs/fine-tuning.md says so."""
STAGE = "prefill"
"""Any stage that the gauge knows: a step is one stage here."""

CASES: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"language": "lora"},
    "bfloat16": {"dtype": "bfloat16"},
    "lora-bfloat16": {"language": "lora", "dtype": "bfloat16"},
    "checkpointing": {"gradient_checkpointing": True},
    "checkpointing-batch": {"gradient_checkpointing": True, "per_device_train_batch_size": 4},
    "batch": {"per_device_train_batch_size": 4},
    "more-kept": {"retain": 0.9},
    "selector": {"language": "frozen", "train_selector": True, "estimator": "straight_through"},
    "selector-sampled": {"language": "frozen", "train_selector": True},
    "both": {"train_selector": True, "estimator": "straight_through"},
    "no-selector": {"compressor": "v_cast+divprune"},
    "self-distillation": {"loss": "self_distillation", "compressor": "resift", "retain": 0.1},
    "self-distillation-lora": {"loss": "self_distillation", "compressor": "resift", "language": "lora"},
}
RECIPES = sorted((Path(__file__).parents[3] / "recipes" / "train").glob("*.yaml"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_dataset(folder, clips=2, seed=0, questions_per_clip=1, step=lambda: None)
    return folder


def recipe(data: Path, out: Path, **changes: Any) -> TrainRecipe:
    values = {"selector": None, "retain": 0.25, "max_steps": 2, "per_device_train_batch_size": 2}
    return TrainRecipe("nano", (str(data),), str(out), **{**values, **changes})


@pytest.mark.parametrize("name", CASES)
def test_memory_and_operations_of_a_step(name: str, data: Path, tmp_path: Path) -> None:
    compare(recipe(data, tmp_path, **CASES[name]))


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_step_of_each_bundled_recipe_on_nano(path: Path, data: Path, tmp_path: Path) -> None:
    here = {"model": "nano", "data": [str(data)], "output_dir": str(tmp_path), "device": "cpu"}
    here |= {"processes": None, "cache": None, "time_embedding": True}
    settings = replace(load_train_recipe(path, here), retain_start=None)  # the trainer alone lets the budget fall
    compare(settings if settings.selector == "new" else replace(settings, selector=None))


def compare(settings: TrainRecipe, factor: float = FACTOR) -> None:
    """Assert that a step takes the memory and the operations of the formula, within ``factor``."""
    samples = load_samples(Path(settings.data[0]))[: settings.per_device_train_batch_size]
    host, model = build(settings)
    collator = make_collator(settings, host.processor)
    source = find_model(settings.model)
    shapes = [shape for sample in samples for shape in row_shapes(collator, sample, source.config)]
    # The formula knows the configuration alone.
    empty = empty_thinker(source)
    parameters = count_parameters(settings, empty)
    memory = step_memory(settings, empty.config, parameters, max(shapes, key=lambda shape: shape.prompt))
    flops = sum(row_flops(settings, empty.config, shape) for shape in shapes)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert parameters.trained == sum(p.numel() for p in trained)
    assert parameters.frozen == sum(p.numel() for p in model.parameters() if not p.requires_grad)
    # Two steps: the first creates the moments of the optimizer.
    optimizer = torch.optim.AdamW(trained)
    batch = collator(samples)
    batch.pop("skipped")
    model.train()

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.in_bfloat16):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with memory_gauge(torch.device("cpu")) as gauge:
        gauge.stage(STAGE)
        step()
    with torch_counter() as counter:
        step()
    fixed = sum(p.nbytes for p in model.parameters())
    fixed += parameters.teacher * (2 if settings.in_bfloat16 else 4)  # the copy is no part of the module
    fixed += sum(value.nbytes for state in optimizer.state.values() for value in state.values())
    assert 1 / factor < memory.peak / (fixed + gauge.peaks[STAGE]) < factor
    assert 1 / factor < flops / counter.get_total_flops() < factor


def test_a_falling_budget_costs_the_memory_of_its_start_and_the_operations_of_its_mean(
    data: Path, tmp_path: Path
) -> None:
    end = plan_run(recipe(data, tmp_path, retain=0.1), tflops=2.0)
    fall = plan_run(recipe(data, tmp_path, retain=0.1, retain_start=0.5), tflops=2.0)
    start = plan_run(recipe(data, tmp_path, retain=0.5), tflops=2.0)
    assert fall.memory == start.memory
    assert fall.kept == end.kept
    assert fall.tflop == pytest.approx(end.tflop + (start.tflop - end.tflop) / 4, rel=0.05)


def test_a_plan_counts_steps_and_samples_and_writes_nothing(data: Path, tmp_path: Path) -> None:
    settings = recipe(data, tmp_path / "run", max_steps=None, num_train_epochs=2.0, gradient_accumulation_steps=2)
    plan = plan_run(settings, tflops=2.0)
    assert not (tmp_path / "run").exists()
    assert (plan.rows, plan.steps) == (4, fine_tune(settings).steps)
    assert plan.kept < plan.tokens <= plan.longest
    assert (plan.tflops, plan.throughput) == (2.0, "given")
    assert plan.hours == pytest.approx(plan.tflop / 2.0 / 3600)
    assert plan.memory.sharded(4) < plan.memory.peak


def test_a_plan_for_a_device_that_is_not_here(data: Path, tmp_path: Path) -> None:
    plan = plan_run(recipe(data, tmp_path / "run", device="cuda", processes=8))
    assert plan.devices == 8
    assert plan.throughput.startswith("assumed: 40 %")


def test_the_dry_run_of_a_recipe(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    values = {
        "model": "nano",
        "data": [str(data)],
        "output_dir": str(tmp_path / "run"),
        "retain": 0.25,
        "selector": None,
    }
    path.write_text(json.dumps(values))
    result = CliRunner().invoke(app, ["train", str(path), "--dry-run", "--tflops", "1"])
    assert result.exit_code == 0, result.output
    for words in ("steps", "memory (formula)", "hours (formula)", "TFLOP/s (given)"):
        assert words in result.output
    result = CliRunner().invoke(app, ["train", str(path), "--dry-run", "--json"])
    assert json.loads(result.stdout.splitlines()[-1])["memory"]["peak"] > 0
    assert not (tmp_path / "run").exists()


def test_a_rate_is_measured() -> None:
    assert matrix_tflops("cpu", torch.float32, size=64, seconds=0.01) > 0


def test_the_table_of_full_size_recipes_is_in_the_documentation() -> None:
    page = (Path(__file__).parents[3] / "docs" / "fine-tuning.md").read_text(encoding="utf-8")
    assert load_benchmark("training_table").training_table() in page
