"""`attach`: plug a compressor into an untouched Hugging Face model."""

from __future__ import annotations

from typing import Any

from torch import nn

from omnisift.compressors.base import Compressor
from omnisift.errors import CompressorError, ModelError, UnsupportedModel
from omnisift.models.adapter import Adapter
from omnisift.models.attachment import Attachment
from omnisift.models.qwen2_5_omni import Qwen25OmniAdapter

ADAPTERS: tuple[type[Adapter], ...] = (Qwen25OmniAdapter,)
"""One per family, probed in this order."""


def attach(model: nn.Module, compressor: Compressor) -> Attachment:
    """Compress every prompt with video that ``model`` gets from now on.

    Works at once and until ``detach()``; or ``with attach(model, compressor) as attachment: ...``. The model's class,
    weights and attributes stay untouched: all work is done in forward hooks on this one instance. The compressor stays
    outside the model (it is not saved with it) and is moved to the device of the model's language model. A wrapper with
    ``get_base_model`` (PEFT) is taken too: attach to the wrapper, not to what it wraps.

    Raises:
        UnsupportedModel: no adapter for this kind of model.
        ModelError: the model already has a compressor.
        CompressorError: the compressor needs something that the adapter can't supply.
    """
    # Wrappers like PEFT's keep the host inside and pass its configuration on.
    unwrap: Any = getattr(model, "get_base_model", None)
    adapter = _adapter_for(model if unwrap is None else unwrap())
    if is_attached(adapter.parts.language_model):
        raise ModelError(
            f"{type(model).__name__} already has a compressor attached: call detach() on the first attachment"
        )
    missing = sorted(compressor.needs - adapter.supplies)
    if missing:
        raise CompressorError(
            f"compressor '{compressor.name}' needs {missing}, which the adapter of {type(model).__name__} can't "
            "supply: choose another compressor"
        )
    compressor.to(next(adapter.parts.language_model.parameters()).device)
    return Attachment(adapter, compressor, model)


def _adapter_for(model: nn.Module) -> Adapter:
    kind = getattr(getattr(model, "config", None), "model_type", None)
    for adapter in ADAPTERS:
        if kind in adapter.model_types:
            return adapter(model)
    known = ", ".join(sorted(kind for adapter in ADAPTERS for kind in adapter.model_types))
    what = f"model_type {kind!r}" if kind is not None else f"{type(model).__name__}"
    raise UnsupportedModel(f"no adapter for {what}. Known: {known}. See docs/add-a-model.md")


def is_attached(language_model: nn.Module) -> bool:
    """Whether any attachment's hook is on the language model: the hooks are the only trace of one."""
    hooks = language_model._forward_pre_hooks.values()
    return any(isinstance(getattr(hook, "__self__", None), Attachment) for hook in hooks)
