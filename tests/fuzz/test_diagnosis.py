"""Wrong values in the config.json of each family: `doctor --model` and `profile --config` answer, or say one line."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fuzz.conftest import Fuzz
from tests.helpers.families import FAMILIES

from omnisift.budget import Budget
from omnisift.errors import OmniSiftError
from omnisift.profiling.analytic import count, weight_bytes
from omnisift.profiling.diagnosis import diagnose
from omnisift.profiling.shape import prompt_shape
from omnisift.profiling.sizes import host_config

pytestmark = [pytest.mark.slow, pytest.mark.fuzz]

VALUES: tuple[Any, ...] = (0, -1, "x", None, 10**9, [], 1.5, True, {}, float("nan"), 10**30, [None], "0", -(10**12))


def places(part: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Each object of a configuration with each of its keys."""
    for key, value in part.items():
        yield part, key
        if isinstance(value, dict):
            yield from places(value)


def counted(folder: str) -> None:
    config = host_config(folder)
    count(config, prompt_shape(20, config=config), [Budget(0.25)])
    weight_bytes(config)


def test_wrong_values(fuzz: Fuzz, tmp_path: Path) -> None:
    configs = {name: family.config().to_dict() for name, family in FAMILIES.items()}
    for seed in fuzz:
        rng = random.Random(seed)
        name = rng.choice(sorted(configs))
        content = json.loads(json.dumps(configs[name]))
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            part, key = rng.choice(list(places(content)))
            part[key] = rng.choice(VALUES)
        (tmp_path / "config.json").write_text(json.dumps(content))
        for use in (diagnose, counted):
            with fuzz.case(f"seed {seed} {name} {use.__name__}"):
                try:
                    use(str(tmp_path))
                except OmniSiftError as error:
                    if "\n" in str(error):
                        raise ValueError(f"more than one line: {error}") from error
