"""Read selector weights from a folder, whichever of the three layouts it has."""

from __future__ import annotations

import json
from pathlib import Path

from omnisift.errors import CheckpointError, UsageError
from omnisift.utils.quiet import quiet_transformers
from omnisift.vgas import VGAS

ADAPTER_PREFIX = "base_model.model.thinker.compressor."
"""Prefix of selector tensors in a PEFT adapter (docs/ms-swift.md)."""


def read_selector_folder(folder: Path, hidden_size: int) -> VGAS:
    """Read the selector in ``folder``, in the dtype that it is stored in.

    Args:
        folder: saved by `VGAS.save_pretrained`, a PEFT adapter with a selector, or a checkpoint of the full model,
            with its selector in ``selector/`` or among its own tensors.
        hidden_size: width of the host's embeddings, which the selector must share.

    Raises:
        UsageError: ``folder`` is not a folder.
        CheckpointError: the selector lacks tensors, its config is unreadable, or its input size is not
            ``hidden_size``.
    """
    if not folder.is_dir():
        raise UsageError(f"no selector folder at {folder}; give one that `omnisift distill` wrote")
    if (folder / "selector").is_dir():
        folder = folder / "selector"
    vgas: VGAS
    with quiet_transformers():
        if is_selector_folder(folder):
            vgas = VGAS.from_pretrained(str(folder))
        elif (folder / "adapter_config.json").is_file():
            vgas = VGAS.from_checkpoint(folder, ADAPTER_PREFIX)
        else:
            vgas = VGAS.from_checkpoint(folder)
    check_input_size(vgas, hidden_size, str(folder))
    return vgas


def is_selector_folder(folder: Path) -> bool:
    """Whether ``folder`` was written by `VGAS.save_pretrained`."""
    config = folder / "config.json"
    if not config.is_file():
        return False
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{config} is not JSON ({error}); give the folder of a selector") from error
    return isinstance(content, dict) and content.get("model_type") == "omnisift_vgas"


def check_input_size(vgas: VGAS, hidden_size: int, source: str) -> None:
    """Raise `CheckpointError` unless ``vgas``, read from ``source``, takes embeddings of ``hidden_size``."""
    if vgas.config.input_size != hidden_size:
        raise CheckpointError(
            f"selector at {source} has width {vgas.config.input_size}, the model {hidden_size}; "
            "give the selector of this model"
        )
