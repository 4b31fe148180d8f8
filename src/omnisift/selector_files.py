"""The selector's tensors in a whole model's checkpoint: found by prefix, read alone, refused if they don't fit."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from omnisift.errors import CheckpointError


def read_prefixed(folder: Path, prefix: str) -> dict[str, Tensor]:
    """Tensors whose name starts with ``prefix``, without it."""
    tensors: dict[str, Tensor] = {}
    for file in _files_with(folder, prefix):
        tensors |= {name.removeprefix(prefix): tensor for name, tensor in _read_file(file, prefix)}
    if not tensors:
        raise CheckpointError(
            f"{folder} has no tensor named {prefix}*: this checkpoint has no selector; "
            "name one that has, or choose a training-free compressor"
        )
    return tensors


def _read_file(file: Path, prefix: str) -> list[tuple[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as handle:
            return [(name, handle.get_tensor(name)) for name in handle.keys() if name.startswith(prefix)]  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{file} can't be read as safetensors ({error}): download the checkpoint again"
        ) from error


def _files_with(folder: Path, prefix: str) -> list[Path]:
    """The files that may hold such tensors: those that the index names, else all."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        found = sorted(folder.glob("*.safetensors"))
        if not found:
            raise CheckpointError(f"{folder} holds no .safetensors file: give the folder of a checkpoint")
        return found
    try:
        where: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return sorted({folder / file for name, file in where.items() if name.startswith(prefix)})
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{index} is not a safetensors index ({error!r}): download the checkpoint again"
        ) from error


def check_tensors(source: object, got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    """Raise `CheckpointError` unless ``got`` has the names and shapes of ``want``, no more and no less."""
    wrong = [
        f"{n} {tuple(got[n].shape)} for {tuple(want[n].shape)}"
        for n in got
        if n in want and got[n].shape != want[n].shape
    ]
    refuse(
        f"selector in {source}",
        {"missing": sorted(want.keys() - got.keys()), "surplus": sorted(got.keys() - want.keys()), "misshapen": wrong},
    )


def refuse(what: str, problems: dict[str, list[str]]) -> None:
    """Raise `CheckpointError` if any kind of problem has names; else do nothing."""
    found = "; ".join(f"{kind.removesuffix('_keys')}: {', '.join(names)}" for kind, names in problems.items() if names)
    if found:
        raise CheckpointError(f"{what} does not fit the selector: {found}; use a checkpoint of the same version")
