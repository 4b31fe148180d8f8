"""Plan of a benchmark run: its jobs, and the settings that identify its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnisift.lab.benchmark.condition import Condition
from omnisift.lab.benchmark.recipe import Recipe, RecipeRow
from omnisift.utils.safetensors_files import open_safetensors
from omnisift.world import make_scene

QUESTION_STREAM = 11
BATCH = 250
"""Clips per job."""


@dataclass(frozen=True)
class Job:
    """One row of a recipe on one batch of clips."""

    row: RecipeRow
    first: int
    """Number of the first clip."""
    count: int
    """Number of clips."""

    @property
    def key(self) -> tuple[str, int]:
        """Key of the job in a result file."""
        return self.row.key, self.first


@dataclass(frozen=True)
class Plan:
    """A recipe with the backbone, the selectors, and the models trained for its rows."""

    recipe: Recipe
    backbone: str
    """Checkpoint folder."""
    folder: Path
    """Working folder of encoded clips."""
    selectors: Mapping[str, str] = field(default_factory=dict)
    """Name -> folder."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Key of a row -> checkpoint folder of the model trained for it."""
    own_selectors: Mapping[str, str] = field(default_factory=dict)
    """Key of a row -> folder of the selector trained together with its model."""

    def jobs(self, clips: int) -> Iterator[Job]:
        """Yield the jobs batch by batch, so that a worker reuses the clips in memory."""
        rows = list(self.recipe.rows())
        for setting in self.recipe.settings:
            for first in range(0, clips, BATCH):
                count = min(BATCH, clips - first)
                yield from (Job(row, first, count) for row in rows if row.setting == setting)

    def missing(self, clips: int, done: Mapping[tuple[str, int], int]) -> list[Job]:
        """Return the jobs for which ``done`` (key -> number of clips) has fewer clips than the job."""
        return [job for job in self.jobs(clips) if done.get(job.key, 0) < job.count]


def encoders_digest(checkpoint: Path) -> str:
    """Return 12 hexadecimal digits of the names and values of a checkpoint's encoder tensors."""
    digest = hashlib.sha256()
    for path in sorted(checkpoint.glob("*.safetensors")):
        with open_safetensors(path) as file:
            for name in sorted(file.keys()):
                if "visual" in name or "audio_tower" in name:
                    digest.update(name.encode())
                    digest.update(file.get_tensor(name).contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def encoded_path(plan: Plan, condition: Condition, first: int) -> Path:
    """Return the file of a batch of encoded clips; its name depends on the encoders and the scene generator."""
    scene = make_scene(first, plan.recipe.split, condition.world.config).fingerprint()[:12]
    name = f"{condition.file_name}-{first:06d}-{scene}-{encoders_digest(Path(plan.backbone))}"
    return plan.folder / "clips" / f"{name}.safetensors"


def settings_of(plan: Plan) -> dict[str, Any]:
    """Return what two lines of one result file have in common, as plain data."""
    recipe = plan.recipe.as_dict()
    split = recipe.pop("split")
    recipe.pop("clips")
    plain: dict[str, Any] = json.loads(
        json.dumps(
            {
                "recipe": recipe,
                "split": split,
                "question_stream": QUESTION_STREAM,
                "backbone": tensors_digest(Path(plan.backbone)),
                "selectors": {name: tensors_digest(Path(folder)) for name, folder in sorted(plan.selectors.items())},
                "models": {key: tensors_digest(Path(folder)) for key, folder in sorted(plan.models.items())},
                "worlds": {
                    name: make_scene(0, split, Condition.parse(name).world.config).fingerprint()[:16]
                    for name in plan.recipe.settings
                },
            }
        )
    )
    return plain


def tensors_digest(folder: Path) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of the safetensors files in ``folder``."""
    files = sorted(folder.glob("*.safetensors"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
