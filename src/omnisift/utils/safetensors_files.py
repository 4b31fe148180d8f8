"""The safetensors files of a checkpoint: their index, and the selector's tensors in them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from omnisift.errors import CheckpointError
from omnisift.utils.checkpoint_files import AGAIN, check_not_pointer, checkpoint_errors, read_json_object

INDEX = "model.safetensors.index.json"
"""File that names the shard of each tensor of a sharded checkpoint."""
_UNSTORED = 1 << 23
"""Numbers that a model may have beyond twice its stored ones: 32 MiB as float32."""


def read_weight_map(index: Path) -> dict[str, str]:
    """Read the index of a sharded checkpoint.

    Args:
        index: the file `INDEX`.

    Returns:
        Name of a tensor -> name of its file.

    Raises:
        CheckpointError: the file is no index, or names files outside its folder.
    """
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(_is_file_name(file) for file in weight_map.values()):
        raise CheckpointError(f"{index} is not a safetensors index: its weight_map must name files; {AGAIN}")
    return weight_map


def _is_file_name(file: object) -> bool:
    return isinstance(file, str) and Path(file).name == file


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
    with open_safetensors(file) as handle:
        return set(handle.keys())


@contextmanager
def open_safetensors(file: Path) -> Iterator[Any]:
    """`safetensors.safe_open` for a file that may be broken, on the CPU. The block must only read it.

    Raises:
        CheckpointError: the file can't be read, is a git-lfs pointer, or holds less than its header says.
    """
    with checkpoint_errors(file):
        with file.open("rb") as raw:
            check_not_pointer(file, raw.read(64))
        handle = safe_open(str(file), framework="pt")
    with handle as opened, checkpoint_errors(file):
        yield opened


def check_size(folder: Path, skeleton: nn.Module) -> None:
    """Check that a model is not far larger than its stored weights, before memory is taken for it.

    Args:
        folder: the checkpoint. Without weights in it nothing is checked.
        skeleton: the model of its config.json, on the meta device.

    Raises:
        CheckpointError: the model needs more numbers than the files hold, or a file can't be read.
    """
    single = folder / "model.safetensors"
    if not single.is_file() and not (folder / INDEX).is_file():
        return
    stored = sum(map(_count_values, [single] if single.is_file() else weight_files(folder)))
    needed = sum(tensor.numel() for tensor in (*skeleton.parameters(), *skeleton.buffers()))
    # Buffers and tied weights are not stored, so the two never agree exactly.
    if needed > 2 * stored + _UNSTORED:
        raise CheckpointError(
            f"{folder / 'config.json'} describes a model of {needed:,} numbers, but the weights hold {stored:,}; "
            "use the config.json of these weights"
        )


def _count_values(file: Path) -> int:
    """How many numbers the tensors of ``file`` hold, from its header alone."""
    with open_safetensors(file) as handle:
        return sum(math.prod(handle.get_slice(name).get_shape()) for name in handle.keys())  # noqa: SIM118


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
    with open_safetensors(file) as handle:
        return [(name, handle.get_tensor(name)) for name in handle.keys() if name.startswith(prefix)]  # noqa: SIM118


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
    text = "; ".join(f"{kind.removesuffix('_keys')}: {_some(names)}" for kind, names in problems.items() if names)
    if text:
        raise CheckpointError(f"{source} does not fit the selector: {text}; use a checkpoint of the same version")


def check_finite(source: object, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Check that no tensor holds NaN or infinity, as weights do after a training that diverged.

    Args:
        source: the checkpoint, for the message.
        tensors: name and tensor of each.

    Raises:
        CheckpointError: a tensor is not finite.
    """
    bad = [name for name, tensor in tensors if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise CheckpointError(
            f"selector in {source} holds NaN or infinite weights: {_some(bad)}; train it again, or use another one"
        )


def _some(names: list[str]) -> str:
    """The first names, and how many follow."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
