"""The folder of a training run: who writes it, its recipe, and which files in it are not its own."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path

from omnisift.compressors import check_selector
from omnisift.errors import UsageError
from omnisift.training.finetune.checkpoints import checkpoints
from omnisift.training.finetune.recipe import (
    FORMER_LORA_TARGET_MODULES,
    LORA_TARGET_MODULES,
    MAY_CHANGE,
    TrainRecipe,
    current_values,
    recipe_of,
)
from omnisift.utils.atomic_io import try_lock, write_atomic
from omnisift.utils.jsonl import parse_json
from omnisift.utils.parsing import read_text

logger = logging.getLogger(__name__)
RECIPE, LOCK, OWN_ANSWERS = "recipe.json", "run.lock", "answers.jsonl"


def is_new(folder: Path) -> bool:
    """Whether no run has begun in ``folder``."""
    return not (folder / RECIPE).is_file()


def check_folder(folder: Path) -> None:
    """Raise `UsageError` if a new run would replace files that are not its own."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder for the run")
    if (folder / RECIPE).exists():
        return
    foreign = [folder / name for name in ("model", "selector", "log.jsonl", OWN_ANSWERS) if (folder / name).exists()]
    foreign += checkpoints(folder)
    if foreign:
        raise UsageError(f"{foreign[0]} exists and is not from a run in this folder; move it, or name another --out")


def make_folder(folder: Path, what: str) -> None:
    """Create ``folder``, called ``what`` in messages. Raises `UsageError` if it can't be created or written in."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(folder, os.W_OK) else "permission denied"
    except OSError as error:
        reason = (error.strerror or "unknown error").lower()
    if reason:
        raise UsageError(f"{what} {folder} can't be written ({reason}); name another folder")


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """In the block, this process is the only one that trains in ``folder``, which is created.

    Raises:
        UsageError: another run is in progress there, or the folder can't be written.
    """
    make_folder(folder, "output_dir")
    with (folder / LOCK).open("ab") as file:
        try:
            alone = try_lock(file.fileno())
        except OSError:  # a network file system without locks
            logger.warning("%s can't be locked: start no second run in this folder", folder)
            alone = True
        if not alone:
            raise UsageError(f"another run is training in {folder}; wait for it, or name another --out")
        yield


def save_recipe(recipe: TrainRecipe, folder: Path) -> None:
    """Write ``recipe.json`` into the folder of a run.

    A run that exists there can only resume with the same recipe, except for the keys of `MAY_CHANGE`.

    Raises:
        UsageError: the folder holds a run of another recipe, or of more steps; or a new run has a selector that its
            method does not take. Earlier versions ignored that selector, so that their runs still resume.
    """
    path = folder / RECIPE
    if path.is_file():
        values = parse_json(read_text(path, "the run's recipe"), str(path), "restore the file, or name another --out")
        if not isinstance(values, dict):
            raise UsageError(f"{path} must hold keys and values; restore the file, or name another --out")
        stored, _ = current_values(values, str(path))
        _check_resumable(recipe, recipe_of(stored, str(path)), folder)
    else:
        check_selector(None if recipe.selector == "distill" else recipe.selector, recipe.compressor)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(asdict(recipe), indent=1) + "\n")


def _check_resumable(recipe: TrainRecipe, stored: TrainRecipe, folder: Path) -> None:
    if stored.lora_target_modules == FORMER_LORA_TARGET_MODULES and recipe.lora_target_modules == LORA_TARGET_MODULES:
        stored = replace(stored, lora_target_modules=LORA_TARGET_MODULES)
    same = replace(recipe, **{name: getattr(stored, name) for name in MAY_CHANGE})
    changed = [f.name for f in fields(TrainRecipe) if getattr(same, f.name) != getattr(stored, f.name)]
    if changed:
        before, now = getattr(stored, changed[0]), getattr(recipe, changed[0])
        raise UsageError(
            f"{folder} holds a run with another {changed[0]} ({before!r}, now {now!r}): "
            "give another --out, or delete the folder"
        )
    for name in ("max_steps", "num_train_epochs"):
        before, now = getattr(stored, name), getattr(recipe, name)
        if (before is None) != (now is None) or (before is not None and now < before):
            raise UsageError(f"{folder} holds a run of {name}: {before}, now {now}: a resumed run can only get longer")
