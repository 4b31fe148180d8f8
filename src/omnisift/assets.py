"""Where the files that come with the package lie. A leaf: it imports nothing of the library but its errors."""

from __future__ import annotations

from pathlib import Path

from omnisift.errors import CheckpointError

_CHECKPOINTS = Path(__file__).resolve().parent / "checkpoints"


def nano_path() -> Path:
    """The folder of the bundled nano checkpoint: weights, tokenizer, processor files, ``selector/``, ``recipe.json``.

    Raises:
        CheckpointError: the package was installed or copied without its checkpoint.
    """
    return _bundled("nano")


def neutral_path() -> Path:
    """The folder of the benchmark's backbone: as nano, but its language model has never seen a compressed prompt.

    Raises:
        CheckpointError: the package was installed or copied without it.
    """
    return _bundled("neutral")


def _bundled(name: str) -> Path:
    folder = _CHECKPOINTS / name
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"the bundled {name} checkpoint is missing: no config.json in {folder}. "
            f"Reinstall the package, or make it again with `python -m omnisift.training.{name} --bundle`."
        )
    return folder
