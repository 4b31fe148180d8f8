"""Random recipes, changes on the command line and data files: one line that names the file, or a checked result."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.fuzz.conftest import Fuzz
from tests.fuzz.test_checkpoints import CHANGES
from tests.helpers.wrong_recipes import BENCH, BENCH_VALUES, DATA, ROWS, TORN, train_values

from omnisift.errors import OmniSiftError
from omnisift.lab.benchmark.recipe import load_recipe
from omnisift.training.data import load_samples
from omnisift.training.finetune.recipe import TrainRecipe, load_train_recipe

pytestmark = [pytest.mark.slow, pytest.mark.fuzz]
TRAIN = {"model": "nano", "data": ["x"], "output_dir": "y", "retain": 0.25}


def refused_in_one_line(load: Callable[[Path], Any], path: Path) -> Any:
    """What ``load`` returns; None for an error, which must be one line with the file's name."""
    try:
        return load(path)
    except OmniSiftError as error:
        text = str(error)
        assert "\n" not in text
        assert len(text) < 2000
        text.encode()
    return None


def written(values: dict[str, Any], rng: random.Random) -> bytes:
    """The recipe as YAML or JSON, sometimes damaged."""
    text = json.dumps(values) if rng.random() < 0.5 else yaml.safe_dump(values)
    content = text.encode("utf-16" if rng.random() < 0.02 else "utf-8")
    return rng.choice(CHANGES)(content, rng) if rng.random() < 0.4 else content


def finite(recipe: TrainRecipe) -> bool:
    return all(math.isfinite(value) for value in vars(recipe).values() if isinstance(value, float))


def test_random_recipes_and_data(fuzz: Fuzz, tmp_path: Path) -> None:
    train, path, contents = train_values(), tmp_path / "file", [*TORN.values(), *DATA.values()]
    good = {"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "blue"}]}
    for seed in fuzz:
        rng = random.Random(seed)
        with fuzz.case(f"seed {seed} train"):
            keys = rng.sample(sorted(train), rng.choice((1, 1, 2, 5)))
            path.write_bytes(written(TRAIN | {key: rng.choice(train[key]) for key in keys}, rng))
            recipe = refused_in_one_line(load_train_recipe, path)
            assert recipe is None or finite(recipe)
        with fuzz.case(f"seed {seed} bench-quality"):
            key = rng.choice(sorted(BENCH_VALUES))
            path.write_bytes(written(BENCH | {key: rng.choice(BENCH_VALUES[key])}, rng))
            refused_in_one_line(load_recipe, path)
        with fuzz.case(f"seed {seed} data"):
            rows = [good, ROWS[rng.choice(sorted(ROWS))], good]
            lines = "\n".join(json.dumps(row) for row in rows) if rng.random() < 0.5 else json.dumps(rows)
            content = rng.choice((lines.encode(), rng.choice(contents)))
            path.write_bytes(rng.choice(CHANGES)(content, rng) if rng.random() < 0.5 else content)
            samples = refused_in_one_line(load_samples, path)
            assert samples is None or all(sample.turns[0].role != "assistant" for sample in samples)
        with fuzz.case(f"seed {seed} any file"):
            content = rng.choice(contents)
            path.write_bytes(rng.choice(CHANGES)(content, rng))
            for load in (load_train_recipe, load_recipe, load_samples):
                refused_in_one_line(load, path)
