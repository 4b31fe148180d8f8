"""The formula for memory and operations of a training step against a measured step of each family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.family_folders import FACTORS, save_family
from tests.training.finetune.test_cost import compare
from tests.training.finetune.test_families import recipe

from omnisift.training.finetune import plan_run
from omnisift.world.dataset import write_dataset

FAST = ["qwen3_omni_moe_thinker", "qwen3_5"]
ALL = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in FACTORS]
CASES: dict[str, dict[str, Any]] = {
    "full": {}, "lora": {"language": "lora", "lora_rank": 2}, "checkpointing": {"gradient_checkpointing": True},
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_dataset(folder, clips=2, seed=0, questions_per_clip=1, step=lambda: None)
    return folder


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("families")
    return lambda name: root / name if (root / name).exists() else save_family(name, root / name)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ALL)
def test_memory_and_operations_of_a_step(
    name: str, case: str, folder_of: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    # Many tokens: the models have few weights. What is measured of so little memory varies.
    options = {"max_pixels": 64 * FACTORS[name] ** 2, "fps": 2.0}
    compare(recipe(name, folder_of(name), data, tmp_path, **options, **CASES[case]), factor=2.0)


@pytest.mark.parametrize("name", ALL)
def test_a_plan(name: str, folder_of: Callable[[str], Path], data: Path, tmp_path: Path) -> None:
    plan = plan_run(recipe(name, folder_of(name), data, tmp_path / "run"), tflops=1.0)
    assert plan.kept < plan.tokens
    assert plan.hours > 0
    assert not (tmp_path / "run").exists()
