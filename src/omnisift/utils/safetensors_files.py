"""Read the selector's tensors, by prefix, from the checkpoint of a full model."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from omnisift.errors import CheckpointError


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
    """The files that may hold such tensors: those named in the index, or all files if there is none."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise CheckpointError(f"{folder} holds no .safetensors file: give the folder of a checkpoint")
        return files
    try:
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return sorted({folder / file for name, file in weight_map.items() if name.startswith(prefix)})
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{index} is not a safetensors index ({error!r}): download the checkpoint again"
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
