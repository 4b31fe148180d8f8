"""What a run of the controlled benchmark consists of, and what makes two runs one result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnisift.evaluation.recipe import Recipe, Row
from omnisift.world import make_scene, world_setting

SPLIT, QUESTION_STREAM = "test", 11
BATCH = 250
"""Clips of one unit of work."""


@dataclass(frozen=True)
class Job:
    """One row on one batch of clips."""

    row: Row
    first: int
    count: int

    @property
    def key(self) -> tuple[str, int]:
        """What a finished job is known by."""
        return self.row.key, self.first


@dataclass(frozen=True)
class Plan:
    """A recipe with everything that it needs: the backbone, selectors, and models that were trained for a row."""

    recipe: Recipe
    backbone: str
    """Checkpoint folder."""
    folder: Path
    """Working folder: encoded clips are kept here."""
    selectors: Mapping[str, str] = field(default_factory=dict)
    """Name -> folder."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Key of a row -> checkpoint folder of its own language model."""
    own_selectors: Mapping[str, str] = field(default_factory=dict)
    """Key of a row -> selector that was trained together with its model."""

    def jobs(self, clips: int) -> Iterator[Job]:
        """Batch by batch, so that a worker stays with the clips that it has in memory."""
        rows = list(self.recipe.rows())
        for setting in self.recipe.settings:
            for first in range(0, clips, BATCH):
                count = min(BATCH, clips - first)
                yield from (Job(row, first, count) for row in rows if row.setting == setting)

    def missing(self, clips: int, done: Mapping[tuple[str, int], int]) -> list[Job]:
        """Jobs of which ``done`` (key -> clips) has not all clips: a shorter run before this one left them."""
        return [job for job in self.jobs(clips) if done.get(job.key, 0) < job.count]


def encoders_digest(checkpoint: Path) -> str:
    """12 hexadecimal digits: of a checkpoint's tensors other than the language model's, by name and value."""
    from safetensors import safe_open

    digest = hashlib.sha256()
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            for name in sorted(file.keys()):
                if "visual" in name or "audio_tower" in name:
                    digest.update(name.encode())
                    digest.update(file.get_tensor(name).contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def encoded_path(plan: Plan, setting: str, first: int) -> Path:
    """Where a batch of encoded clips lies: named by the encoders and the scene, so that a change makes new files."""
    chosen = world_setting(setting)
    scene = make_scene(first, SPLIT, chosen.config).fingerprint()[:12]
    return plan.folder / "clips" / f"{setting}-{first:06d}-{scene}-{encoders_digest(Path(plan.backbone))}.safetensors"


def settings_of(plan: Plan) -> dict[str, Any]:
    """What must be equal for two lines to belong to one result."""
    recipe = plan.recipe.as_dict()
    recipe.pop("clips")
    plain: dict[str, Any] = json.loads(
        json.dumps(
            {
                "recipe": recipe,
                "split": SPLIT,
                "question_stream": QUESTION_STREAM,
                "backbone": tensors_digest(Path(plan.backbone)),
                "selectors": {name: tensors_digest(Path(place)) for name, place in sorted(plan.selectors.items())},
                "models": {key: tensors_digest(Path(place)) for key, place in sorted(plan.models.items())},
                "worlds": {
                    name: make_scene(0, SPLIT, world_setting(name).config).fingerprint()[:16]
                    for name in plan.recipe.settings
                },
            }
        )
    )
    return plain


def tensors_digest(folder: Path) -> str:
    """16 hexadecimal digits: SHA-256 of the folder's own safetensors files."""
    files = sorted(folder.glob("*.safetensors"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
