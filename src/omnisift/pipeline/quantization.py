"""Quantised loading: the linear layers of the language model in few bits, by the configurations of Transformers.

Encoders, embeddings and head stay as they are stored: the methods compare what the encoders compute, and the selector
takes its dtype from the embeddings.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import nn

from omnisift.errors import CheckpointError, UsageError, install_hint
from omnisift.models import adapter_for, model_class
from omnisift.pipeline.model_source import ModelSource
from omnisift.utils.checkpoint_files import checkpoint_errors, reason_of
from omnisift.utils.quiet import quiet_transformers
from omnisift.utils.suggest import did_you_mean

_KEPT_FIELDS = ("modules_to_not_convert", "llm_int8_skip_modules", "skip_modules")
"""How the configurations of Transformers call the modules that are not quantised; each has one of these."""

_MAX_TEXTS = 10_000
"""Entries of a stored configuration, which names some hundred modules."""


@dataclass(frozen=True)
class _Way:
    """One way to quantise while loading."""

    package: str
    make: Callable[[list[str], torch.dtype], Any]
    """Modules that are kept, and the dtype of the others -> a configuration of Transformers."""


def _torchao(name: str, kept: list[str]) -> Any:
    from transformers import TorchAoConfig

    return TorchAoConfig(getattr(import_module("torchao.quantization"), name)(), modules_to_not_convert=kept)


def _bitsandbytes(kept: list[str], **settings: Any) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(llm_int8_skip_modules=kept, **settings)


def _nf4(kept: list[str], dtype: torch.dtype) -> Any:
    return _bitsandbytes(kept, load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def _quanto(weights: str, kept: list[str]) -> Any:
    from transformers import QuantoConfig

    return QuantoConfig(weights=weights, modules_to_not_convert=kept)


WAYS: Mapping[str, _Way] = {
    "torchao-int8": _Way("torchao", lambda kept, _: _torchao("Int8WeightOnlyConfig", kept)),
    "torchao-int8-dynamic": _Way("torchao", lambda kept, _: _torchao("Int8DynamicActivationInt8WeightConfig", kept)),
    "torchao-fp8": _Way("torchao", lambda kept, _: _torchao("Float8WeightOnlyConfig", kept)),
    "bitsandbytes-int8": _Way("bitsandbytes", lambda kept, _: _bitsandbytes(kept, load_in_8bit=True)),
    "bitsandbytes-nf4": _Way("bitsandbytes", _nf4),
    "quanto-int8": _Way("optimum.quanto", lambda kept, _: _quanto("int8", kept)),
    "quanto-int4": _Way("optimum.quanto", lambda kept, _: _quanto("int4", kept)),
    "quanto-int2": _Way("optimum.quanto", lambda kept, _: _quanto("int2", kept)),
}
"""Name -> way. Weights alone are quantised, except by ``torchao-int8-dynamic``, which quantises inputs as well."""


def check_quantization(quantization: Any) -> None:
    """Check a value of ``quantization`` as `omnisift.load` takes it; no model is read.

    Raises:
        UsageError: it is neither None, a known name nor a configuration of Transformers, or its package is missing.
    """
    from transformers.utils.quantization_config import QuantizationConfigMixin

    if quantization is None:
        return
    if isinstance(quantization, str):
        if quantization not in WAYS:
            raise UsageError(f"quantization {quantization!r:.40} is unknown; {did_you_mean(quantization, WAYS)}")
        package = WAYS[quantization].package
        if not _is_installed(package):
            raise UsageError(
                f"quantization {quantization!r} needs {package}, which is not installed: {install_hint('quant')}"
            )
    elif not isinstance(quantization, QuantizationConfigMixin):
        raise UsageError(
            "quantization is a name such as bitsandbytes-nf4 or a quantisation configuration of Transformers, got "
            f"{type(quantization).__name__}"
        )
    elif not any(hasattr(quantization, name) for name in _KEPT_FIELDS):
        raise UsageError(
            f"{type(quantization).__name__} can't leave the encoders as they are; use a checkpoint that is stored so, "
            "or another configuration"
        )


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # the parent of a package within a package
        return False


def quantization_config(source: ModelSource, quantization: Any, dtype: torch.dtype | str) -> Any:
    """Return the configuration of Transformers that quantises the language model of ``source``.

    Args:
        source: the model.
        quantization: as `check_quantization` accepts it.
        dtype: of what is not quantised; a string for the stored one.

    Returns:
        The configuration; None without ``quantization``.

    Raises:
        UsageError: the checkpoint is quantised already.
    """
    if quantization is None:
        return None
    if source.stored_quantization is not None:
        method = source.stored_quantization["quant_method"]
        raise UsageError(f"{source.name} is quantised already ({method}); leave quantization out")
    kept = kept_modules(source)
    if isinstance(quantization, str):
        stored_dtype = getattr(source.config, "dtype", None)
        computing = next((one for one in (dtype, stored_dtype) if isinstance(one, torch.dtype)), torch.float32)
        return WAYS[quantization].make(kept, computing)
    chosen = copy.deepcopy(quantization)
    for name in _KEPT_FIELDS:
        # What the caller chose is kept; the default of a configuration quantises the encoders.
        if getattr(chosen, name, ()) in (None, [], ["lm_head"]):
            setattr(chosen, name, kept)
    return chosen


def stored_config(source: ModelSource) -> Any:
    """Return the configuration with which a quantised checkpoint is loaded; None for one that is not quantised.

    Checkpoints of a whole Omni model state it outside the part that is loaded, and name the encoders as they are named
    in that model.

    Raises:
        CheckpointError: Transformers does not know the quantisation, or the names of what is kept are no list.
    """
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    if source.stored_quantization is None:
        return None
    method = source.stored_quantization["quant_method"]
    # Transformers would ignore a method that it does not know, and read packed numbers as weights.
    if method not in {name.partition("_")[0] if "bits" in name else name for name in AUTO_QUANTIZATION_CONFIG_MAPPING}:
        raise CheckpointError(
            f"{source.source}: Transformers knows no quantization {method!r}; update it, or give another checkpoint"
        )
    _check_patterns(source)
    config = copy.deepcopy(source.config)
    stored = dict(source.stored_quantization)
    fields = [name for name in _KEPT_FIELDS if name in stored]
    if not fields and method in ("awq", "torchao", "quanto"):
        fields = ["modules_to_not_convert"]
    for name in fields:
        given = stored.get(name) or []
        if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
            raise CheckpointError(
                f"{source.source}: {name} of quantization_config is {given!r:.40}, not a list of module names; correct "
                "the file"
            )
        stored[name] = sorted({*given, *kept_modules(source)})
    config.quantization_config = stored
    return config


def _check_patterns(source: ModelSource) -> None:
    """Refuse regular expressions with which matching names would take hours: libraries read many entries as such."""
    texts, parts = list[str](), [cast("object", source.stored_quantization)]
    while parts and len(texts) <= _MAX_TEXTS:
        part = parts.pop()
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Mapping):
            parts += [*part.keys(), *part.values()]
        elif isinstance(part, list):
            parts += part
    slow = [
        text for text in texts if len(text) > 300 or re.search(r"\)[*+{]", text) or len(re.findall(r"[*+{]", text)) > 4
    ]
    if slow or len(texts) > _MAX_TEXTS:
        what = f"the pattern {slow[0]!r:.60}" if slow else f"more than {_MAX_TEXTS} entries"
        raise CheckpointError(
            f"{source.source}: quantization_config has {what}, with which loading could take hours; correct the file"
        )


def check_quantized(model: nn.Module, name: str, advice: str) -> None:
    """Multiply by every quantised weight once: libraries load damaged ones, and those that they have no kernel for.

    Args:
        model: as it was loaded.
        name: of its checkpoint, for messages.
        advice: what to do.

    Raises:
        CheckpointError: a product fails or is not finite, or no layer of the language model is quantised.
    """
    language = adapter_for(model).parts.language_model
    layers = {path: module for path, module in language.named_modules() if _is_quantized(module)}
    if not layers:
        raise CheckpointError(
            f"{name}: quantization is stated, but no layer of its language model is quantised; {advice}"
        )
    dtype = model.get_input_embeddings().weight.dtype  # type: ignore[operator]
    for path, module in layers.items():
        tensor = next(itertools.chain(module.parameters(), module.buffers()))
        if tensor.device.type == "meta":
            continue  # offloaded
        try:
            _check_blocks(module)
            with torch.no_grad():
                product = module(torch.zeros(1, 1, int(module.in_features), dtype=dtype, device=tensor.device))
            is_finite = bool(product.isfinite().all())
        except Exception as error:  # the border around the libraries
            reason = reason_of(error)
            raise CheckpointError(f"{name}: can't multiply by the weights of {path} ({reason}); {advice}") from error
        if not is_finite:
            raise CheckpointError(f"{name}: the weights of {path} are not finite; {advice}")


def _is_quantized(module: nn.Module) -> bool:
    if not hasattr(module, "in_features"):
        return False
    is_plain = type(module) is nn.Linear and type(module.weight) is nn.Parameter
    return not is_plain or hasattr(module, "quantization_scheme")


def _check_blocks(module: nn.Module) -> None:
    """Raise `ValueError` for 4-bit weights of bitsandbytes with too few scales, past which its kernel would read."""
    state = getattr(getattr(module, "weight", None), "quant_state", None)
    if state is None:
        return
    blocks = math.ceil(math.prod(state.shape) / state.blocksize)
    if state.absmax.numel() != blocks or state.code.numel() != 16:
        raise ValueError(f"{state.absmax.numel()} scales of {blocks}, {state.code.numel()} levels of 16")


def kept_modules(source: ModelSource) -> list[str]:
    """Return the names of the modules outside the language model, such as its encoders and its head.

    Raises:
        CheckpointError: no model can be built of the configuration.
    """
    with checkpoint_errors(f"{source.source}/config.json"), quiet_transformers(), torch.device("meta"):
        skeleton: nn.Module = model_class(source.model_type)(source.config)
    return modules_outside(skeleton, adapter_for(skeleton).parts.language_model)


def modules_outside(model: nn.Module, part: nn.Module) -> list[str]:
    """Return the largest modules of ``model`` that neither contain ``part`` nor are part of it, by name."""
    path = next(name for name, module in model.named_modules() if module is part)
    around = [path.rsplit(".", up)[0] for up in range(path.count(".") + 1)]
    parents = ["", *around]
    children = (
        f"{parent}.{name}".lstrip(".") for parent in parents if parent != path
        for name, _ in model.get_submodule(parent).named_children()
    )  # fmt: skip
    return sorted(set(children) - set(around))
