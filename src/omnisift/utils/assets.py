"""Paths of the checkpoints that are part of the package."""

from __future__ import annotations

from pathlib import Path

from omnisift.errors import CheckpointError

_CHECKPOINTS = Path(__file__).resolve().parents[1] / "checkpoints"
CHECKOUT_ONLY = ("wide", "wide-qwen3", "nano-long", "wide-long", "wide-text")
"""Backbones of the benchmark that a checkout has, and the wheel has not."""
_MADE_BY = {"wide-long": "nano_long --model wide"}
"""Checkpoint -> the module of `omnisift.lab` that makes it, where it is not named like the checkpoint."""


def is_bundled(source: str | Path) -> bool:
    """Whether ``source`` is the folder of a bundled checkpoint."""
    return Path(source).resolve().parent == _CHECKPOINTS


def nano_path() -> Path:
    """Return the folder of the bundled nano checkpoint.

    It holds weights, tokenizer, processor files, ``selector/`` and ``recipe.json``.

    Raises:
        CheckpointError: the package was installed without its checkpoint.
    """
    return bundled_path("nano")


def bundled_path(name: str) -> Path:
    """Return the folder of a bundled checkpoint: ``nano``, ``neutral``, ``wide``, ``wide-qwen3``, ``nano-long``,
    ``wide-long`` or ``wide-text``.

    Raises:
        CheckpointError: the package was installed without it.
    """
    folder = _CHECKPOINTS / name
    if not (folder / "config.json").is_file():
        get = "Use a checkout of the repository" if name in CHECKOUT_ONLY else "Reinstall the package"
        made_by = _MADE_BY.get(name, name.replace("-", "_"))
        raise CheckpointError(
            f"the bundled {name} checkpoint is missing: no config.json in {folder}. "
            f"{get}, or make it again with `python -m omnisift.lab.{made_by} --bundle`."
        )
    return folder
