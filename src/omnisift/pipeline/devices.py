"""Choose a device and a dtype, and refuse those that this machine cannot use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch

from omnisift.errors import UsageError

DeviceMap: TypeAlias = str | Mapping[str, "int | str | torch.device"]
"""As Transformers takes it: ``auto``, or module name to device."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Name -> number type of weights."""


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """The device that ``device`` names.

    Args:
        device: ``auto`` (cuda, then mps, then cpu: the first that this machine has), ``cpu``, ``cuda``, ``cuda:1`` or
            ``mps``.

    Raises:
        UsageError: the name is unknown, or this machine has no such device.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    resolved = named_device(device)
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    count = counts[resolved.type]
    if (resolved.index or 0) >= count:
        number = f"only {count}" if count else "no"
        plural = "s" if count > 1 else ""
        raise UsageError(
            f"device {str(device)!r} is not available: this torch sees {number} {resolved.type} device{plural}; "
            "use auto or cpu"
        )
    return resolved


def named_device(device: str | torch.device) -> torch.device:
    """The device of that name, which this machine may lack. Raises `UsageError` for a name that is unknown."""
    try:
        named = torch.device(device)
    except (RuntimeError, TypeError):
        named = None
    if named is None or named.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"unknown device {str(device)!r}; use auto, cpu, cuda, cuda:N or mps")
    return named


def resolve_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype | str:
    """The dtype that ``dtype`` names: by default float32 on a CPU and bfloat16 elsewhere.

    Args:
        dtype: ``float32``, ``bfloat16``, ``float16``, the torch dtype itself, ``auto`` for the dtype that the
            checkpoint is stored in, or None for the default.
        device: where the model will run.

    Returns:
        A torch dtype, or ``auto``, which Transformers resolves.

    Raises:
        UsageError: the dtype is unknown.
    """
    if dtype is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if dtype == "auto" or any(dtype is known for known in DTYPES.values()):
        return dtype
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise UsageError(f"unknown dtype {str(dtype)!r}; use auto or one of {', '.join(DTYPES)}")
    return DTYPES[str(dtype)]
