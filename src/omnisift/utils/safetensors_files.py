"""The safetensors files of a checkpoint: their index, and the selector's tensors in them."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from omnisift.errors import CheckpointError

INDEX = "model.safetensors.index.json"
"""File that names the shard of each tensor of a sharded checkpoint."""


def read_weight_map(index: Path) -> dict[str, str]:
    """Read the index of a sharded checkpoint.

    Args:
        index: the file `INDEX`.

    Returns:
        Name of a tensor -> name of its file.

    Raises:
        CheckpointError: the file is no index.
    """
    try:
        weight_map: dict[str, str] = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{index} is not a safetensors index ({error!r}): download the checkpoint again"
        ) from error
    return weight_map


def weight_files(folder: Path, prefix: str = "") -> list[Path]:
    """List the files of a checkpoint that may hold a tensor whose name begins with ``prefix``.

    With an index these are the files that it lists, so that an adapter in the folder is not taken for the model;
    without one, all safetensors files.

    Raises:
        CheckpointError: there is no such file, or one that the index lists is missing.
    """
    index = folder / INDEX
    if not index.is_file():
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise CheckpointError(f"{folder} has no .safetensors file: give the folder of a checkpoint")
        return files
    files = sorted({folder / file for name, file in read_weight_map(index).items() if name.startswith(prefix)})
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{index} lists {file.name}, which is missing: download the checkpoint again")
    return files


def tensor_names(folder: Path) -> set[str]:
    """Return the names of the tensors of a checkpoint, by its index or ``model.safetensors``; empty without either."""
    if (folder / INDEX).is_file():
        return set(read_weight_map(folder / INDEX))
    file = folder / "model.safetensors"
    if not file.is_file():
        return set()
    with safe_open(file, framework="pt") as handle:
        return set(handle.keys())


def read_prefixed(folder: Path, prefix: str) -> dict[str, Tensor]:
    """Read the tensors whose names begin with ``prefix``, and no others.

    Args:
        folder: checkpoint folder with safetensors files.
        prefix: what the names begin with.

    Returns:
        Name without the prefix -> tensor.

    Raises:
        CheckpointError: there is no such tensor, or a file can't be read.
    """
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder, prefix):
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


def check_tensors(source: object, tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Check that names and shapes agree.

    Args:
        source: the checkpoint, for the message.
        tensors: what was read.
        expected: the model's own state dict.

    Raises:
        CheckpointError: a tensor is missing, unexpected or has another shape.
    """
    misshapen = [
        f"{name} {tuple(tensor.shape)} for {tuple(expected[name].shape)}"
        for name, tensor in tensors.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    problems = {
        "missing": sorted(expected.keys() - tensors.keys()),
        "surplus": sorted(tensors.keys() - expected.keys()),
        "misshapen": misshapen,
    }
    check_problems(f"selector in {source}", problems)


def check_problems(source: str, problems: dict[str, list[str]]) -> None:
    """Raise if any tensor is listed.

    Args:
        source: the checkpoint, for the message.
        problems: kind of problem -> names of tensors.

    Raises:
        CheckpointError: a kind of problem has names.
    """
    text = "; ".join(f"{kind.removesuffix('_keys')}: {', '.join(names)}" for kind, names in problems.items() if names)
    if text:
        raise CheckpointError(f"{source} does not fit the selector: {text}; use a checkpoint of the same version")
