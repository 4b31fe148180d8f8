"""A device that is not a CPU, on machines without a GPU: tensors that compute on the CPU and name another device.

`PretendTensor` wraps a CPU tensor. Operations on it unwrap, compute and wrap again. As on a GPU, an operation that
mixes it with a CPU tensor of more than zero dimensions fails, and each value that the CPU waits for is counted.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

GPU = torch.device("meta")
"""Torch guards the current device of other types, which starts CUDA; of this type it does not."""
_ATEN = torch.ops.aten
_MIXED = {_ATEN.index, _ATEN.index_put, _ATEN.index_put_, _ATEN._index_put_impl_}
"""Operations that accept indices on the CPU for a tensor on a GPU, at the price of a transfer."""


class PretendTensor(Tensor):
    """A tensor "on the GPU" with its values on the CPU."""

    values: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> PretendTensor:
        made = Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype,
            device=GPU, requires_grad=False,
        )  # fmt: skip
        made.values = values
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"PretendTensor({self.values})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    packet, flat = func.overloadpacket, []
    tree_map(lambda leaf: flat.append(leaf) if isinstance(leaf, Tensor) else None, (args, kwargs))
    device = kwargs.get("device")
    target = None if device is None else torch.device(device)
    is_upload = packet in (_ATEN._to_copy, _ATEN.copy_) or packet in _MIXED
    on_cpu = [leaf for leaf in flat if not isinstance(leaf, PretendTensor) and leaf.dim() > 0]
    if on_cpu and len(on_cpu) < len(flat) and not is_upload:
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, found GPU and CPU")
    gpu = PretendGpu.current
    result_on_gpu = any(isinstance(leaf, PretendTensor) for leaf in flat) if target is None else target.type == GPU.type
    if packet in (_ATEN._local_scalar_dense, _ATEN.nonzero, _ATEN.masked_select, _ATEN._unique2, _ATEN.equal):
        gpu.wait(packet.__name__)
    if packet is _ATEN._to_copy and target is not None:
        is_moving = isinstance(flat[0], PretendTensor) != (target.type == GPU.type)
        if is_moving and target.type == "cpu":
            gpu.wait("to cpu")
        elif is_moving and not kwargs.get("non_blocking"):
            gpu.wait("to gpu")
    if packet is _ATEN.copy_ and isinstance(flat[0], PretendTensor) != isinstance(flat[1], PretendTensor):
        gpu.wait("copy")
    if packet in _MIXED and on_cpu:
        gpu.wait("index on the cpu")
    if packet in _MIXED:
        is_fill = len(args) > 2 and args[2].numel() == 1  # torch fills such a value by the mask itself
        if not is_fill and any(isinstance(mask, PretendTensor) and mask.dtype == torch.bool for mask in args[1]):
            gpu.wait("index by a mask")
    kwargs = {name: value for name, value in kwargs.items() if name not in ("device", "non_blocking", "pin_memory")}
    bare_args, bare_kwargs = tree_map(_bare, (args, kwargs))
    result = func(*bare_args, **bare_kwargs)
    if (
        getattr(func, "_schema", None) is not None
        and func._schema.name.endswith("_")
        and isinstance(args[0], PretendTensor)
    ):
        return args[0]
    return (
        tree_map(PretendTensor, result)
        if isinstance(result, Tensor) and result_on_gpu
        else (
            tree_map(lambda leaf: PretendTensor(leaf) if isinstance(leaf, Tensor) and result_on_gpu else leaf, result)
        )
    )


def _mixed_free(func: Any, args: Any, kwargs: dict[str, Any]) -> PretendTensor:
    """A function of tensors on one device and numbers."""
    if any(isinstance(arg, Tensor) and not isinstance(arg, PretendTensor) and arg.dim() for arg in args):
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, found GPU and CPU")
    return PretendTensor(func(*tree_map(_bare, args), **tree_map(_bare, kwargs)))


def _bare(leaf: Any) -> Any:
    return leaf.values if isinstance(leaf, PretendTensor) else leaf


class PretendGpu(TorchFunctionMode):
    """While it is active, ``device=GPU`` makes pretended tensors. Counts `waits` by kind and line of the library."""

    current: PretendGpu

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        PretendGpu.current = self

    def wait(self, kind: str) -> None:
        """Count a wait at the line of the library that causes it."""
        frames = [frame for frame in traceback.extract_stack() if "/omnisift/" in frame.filename]
        where = f"{frames[-1].filename.rsplit('/omnisift/', 1)[1]}:{frames[-1].lineno}" if frames else "outside"
        self.waits[f"{kind} {where}"] += 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        if (
            device is not None
            and torch.device(device).type == GPU.type
            and getattr(func, "__name__", "") not in ("to",)
        ):
            return to_gpu(func(*args, **{**kwargs, "device": "cpu"}))
        # Torch has formulas of its own for these on the device of the wrapper.
        if func in (F.cosine_similarity, torch.where) and any(isinstance(arg, PretendTensor) for arg in args):
            return _mixed_free(func, args, kwargs)
        if func is Tensor.tolist and isinstance(args[0], PretendTensor):
            self.wait("tolist")
            return args[0].values.tolist()
        # Tensor.to decides by the device before it dispatches.
        if getattr(func, "__name__", "") == "to" and args and isinstance(args[0], Tensor):
            return _move(func, args, kwargs)
        return func(*args, **kwargs)


def _move(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    source, rest = args[0], list(args[1:])
    targets = [value for value in (*rest, kwargs.get("device")) if isinstance(value, (torch.device, str))]
    others = [value for value in rest if isinstance(value, Tensor)]
    device = torch.device(targets[0]) if targets else others[0].device if others else source.device
    dtype = next((value for value in (*rest, kwargs.get("dtype")) if isinstance(value, torch.dtype)), source.dtype)
    if others:
        dtype = others[0].dtype
    is_from_gpu, is_to_gpu = isinstance(source, PretendTensor), device.type == GPU.type
    values = _bare(source).to(dtype)
    if is_from_gpu == is_to_gpu:
        if dtype == source.dtype:
            return source
        return PretendTensor(values) if is_to_gpu else values
    if not is_to_gpu:
        PretendGpu.current.wait("to cpu")
        return values.clone()
    if not kwargs.get("non_blocking"):
        PretendGpu.current.wait("to gpu")
    return PretendTensor(values.clone())


def to_gpu(value: Tensor) -> Tensor:
    """Wrap a CPU tensor."""
    return value if isinstance(value, PretendTensor) else PretendTensor(value)


@contextmanager
def move_module(module: nn.Module) -> Iterator[None]:
    """Have the parameters and buffers of a module on the pretended device in the block."""
    before: list[tuple[dict[str, Any], str, Any]] = []
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            for name, value in table.items():
                if value is not None and not isinstance(value, PretendTensor):
                    before.append((table, name, value))
    for table, name, value in before:
        made = PretendTensor(value.data)
        table[name] = nn.Parameter(made, requires_grad=False) if isinstance(value, nn.Parameter) else made
    try:
        yield
    finally:
        for table, name, value in before:
            table[name] = value
