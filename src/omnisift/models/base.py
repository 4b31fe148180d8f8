"""Attach a compressor to an unmodified Hugging Face model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from omnisift.budget import Budget
from omnisift.compressors import (
    check_selector,
    make_compressor,
    needs_selector,
    reads_all_tokens,
    resolve_method,
)
from omnisift.compressors.base import Compressor
from omnisift.errors import CompressorError, UnsupportedModel, UsageError
from omnisift.models.adapter import Adapter
from omnisift.models.attachment import Attachment, check_unattached
from omnisift.models.gemma4 import Gemma4Adapter, Gemma4UnifiedAdapter
from omnisift.models.glm4v import Glm4vAdapter, Glm4vMoeAdapter, Glm5NextAdapter, Glm46vAdapter, GlmOcrAdapter
from omnisift.models.llava_onevision import LlavaNextVideoAdapter, LlavaOnevisionAdapter, VideoLlavaAdapter
from omnisift.models.muse_spark import Dots3NoteAdapter, MuseGlimmerAdapter, MuseSparkAdapter
from omnisift.models.nemotron_h_omni import NemotronOmniAdapter
from omnisift.models.one_row_grids import (
    Exaone45Adapter,
    HyperClovaXAdapter,
    KimiK25Adapter,
    Lfm3VLAdapter,
    VideoLlama3Adapter,
)
from omnisift.models.qwen2_5_omni import Qwen25OmniAdapter
from omnisift.models.qwen2_5_vl import Qwen2VLAdapter, Qwen25VLAdapter
from omnisift.models.qwen3_5 import Qwen35Adapter, Qwen35MoeAdapter
from omnisift.models.qwen3_omni_moe import Qwen3OmniMoeAdapter
from omnisift.models.qwen3_vl import Qwen3VLAdapter, Qwen3VLMoeAdapter
from omnisift.models.qwen_relatives import (
    CohereCompassAdapter,
    Cosmos3EdgeAdapter,
    Cosmos3OmniAdapter,
    ErnieVLAdapter,
    HunyuanV4Adapter,
    Qwen4ExpAdapter,
)
from omnisift.utils.names import AUTO

if TYPE_CHECKING:
    from omnisift.vgas import VGAS

ADAPTERS: tuple[type[Adapter], ...] = (
    Qwen25OmniAdapter,
    Qwen3OmniMoeAdapter,
    Qwen2VLAdapter,
    Qwen25VLAdapter,
    Qwen3VLAdapter,
    Qwen3VLMoeAdapter,
    Qwen35Adapter,
    Qwen35MoeAdapter,
    Gemma4Adapter,
    Gemma4UnifiedAdapter,
    Glm4vAdapter,
    Glm4vMoeAdapter,
    Glm46vAdapter,
    GlmOcrAdapter,
    LlavaOnevisionAdapter,
    MuseSparkAdapter,
    MuseGlimmerAdapter,
    Dots3NoteAdapter,
    NemotronOmniAdapter,
    CohereCompassAdapter,
    Cosmos3OmniAdapter,
    Cosmos3EdgeAdapter,
    HunyuanV4Adapter,
    Exaone45Adapter,
    HyperClovaXAdapter,
    Lfm3VLAdapter,
    VideoLlama3Adapter,
    KimiK25Adapter,
    Glm5NextAdapter,
    ErnieVLAdapter,
    Qwen4ExpAdapter,
    LlavaNextVideoAdapter,
    VideoLlavaAdapter,
)
"""One adapter per model family: the only list of the models that the library knows."""


def attach(
    model: nn.Module,
    compressor: Compressor | str = AUTO,
    *,
    retain: float | None = None,
    retain_video: float | None = None,
    retain_audio: float | None = None,
    tokens: int | None = None,
    compress_audio: bool = False,
    retain_text: float | None = None,
    selector: str | Path | VGAS | None = None,
    seed: int = 0,
    adapter: type[Adapter] | None = None,
) -> Attachment:
    """Compress every prompt with video that ``model`` receives, until the attachment is detached.

    With ``compress_audio``, prompts with audio alone are compressed too.

    All work is done in forward hooks on this one instance: its class, weights and attributes stay as they are, and the
    compressor is not saved with it. Call ``detach()`` on the result, or use it as a context manager::

        with omnisift.attach(model, retain=0.25) as attachment:
            model.generate(**inputs)

    Args:
        model: a Hugging Face model that an adapter exists for (docs/add-a-model.md), or a wrapper of one that has
            ``get_base_model``, such as PEFT's: attach to the wrapper, not to the model inside it.
        compressor: name of a method, as `make_compressor` takes it, which is made in evaluation mode; or a compressor,
            which is moved to the device of the language model. ``auto`` is ``omnisift`` if ``selector`` is given, and
            ``resift`` otherwise.
        retain: fraction of video and audio tokens kept together, in (0, 1]. Only with a name, as all that follow.
        retain_video: fraction of video tokens kept; given together with ``retain_audio`` instead of ``retain``.
        retain_audio: fraction of audio tokens kept.
        tokens: video and audio tokens kept of each clip, exactly, instead of a fraction.
        compress_audio: whether audio outside a video is compressed too; else it is kept in full.
        retain_text: fraction of the tokens of `Attachment.lines` that are kept; None keeps all that `Budget` allows.
        selector: folder of selector weights or a `VGAS`, for methods that have weights. It is moved to the device and
            dtype of the model's embeddings.
        seed: for methods that draw at random.
        adapter: your own adapter of the model's family; None takes that of the library (docs/add-a-model.md).

    Returns:
        The attachment, whose ``last`` describes the latest prompt.

    Raises:
        UnsupportedModel: no adapter exists for this kind of model.
        ModelError: the model already has a compressor.
        CompressorError: the method is unknown, lacks its selector, or needs an input that the adapter can't supply.
        CheckpointError: the selector can't be read or is of another model.
        BudgetError: the fractions or the number of tokens are out of range or contradict each other.
        UsageError: ``model`` is not a model, or options of a method were given with a compressor.
    """
    found = adapter_for(model, adapter)
    language_model = found.parts.language_model
    check_unattached(language_model, type(model).__name__)
    if not isinstance(compressor, Compressor):
        budget = Budget.from_options(retain, retain_video, retain_audio, tokens, compress_audio, retain_text)
        compressor = _make_compressor(compressor, budget, selector, seed, language_model)
    elif (retain, retain_video, retain_audio, tokens, selector, retain_text, seed, compress_audio) != (
        *[None] * 6,
        0,
        False,
    ):
        raise UsageError(
            f"retain, tokens, selector, seed and compress_audio belong to the name of a method, but the compressor is "
            f"made already, a {type(compressor).__name__}: leave them out, or pass a name"
        )
    check_needs(compressor, type(found), type(model).__name__)
    compressor.to(_device_of(language_model))
    if _is_compiled(model, found):
        torch.compiler.reset()  # code that was compiled before calls none of the new hooks
    return Attachment(found, compressor, model)


def check_needs(compressor: Compressor, adapter: type[Adapter], name: str) -> None:
    """Raise `CompressorError` if the adapter of the model called ``name`` can't supply what a compressor needs."""
    if missing := sorted(compressor.needs - adapter.supplies):
        raise CompressorError(
            f"compressor '{compressor.name}' needs {missing}, which the adapter of {name} can't supply: choose another "
            "compressor"
        )


def _is_compiled(model: nn.Module, adapter: Adapter) -> bool:
    """Whether the model or a hooked part of it is compiled, by ``torch.compile`` or its own ``compile()``."""
    from torch._dynamo import OptimizedModule

    parts = (model, *adapter.parts.head.modules())
    return any(isinstance(part, OptimizedModule) or part._compiled_call_impl is not None for part in parts)


def adapter_for(model: nn.Module, kind: type[Adapter] | None = None) -> Adapter:
    """Return the adapter of ``model``, which may be a wrapper with ``get_base_model``.

    Args:
        model: the host.
        kind: your own class of adapter; None looks for one by the model's type.

    Raises:
        UnsupportedModel: no adapter exists for this kind of model, or ``kind`` is not for its type.
        UsageError: ``model`` is not a model.
    """
    if not isinstance(model, nn.Module):
        hint = "its model, pipe.host.thinker" if hasattr(model, "host") else "a model loaded by from_pretrained"
        raise UsageError(f"attach takes a Hugging Face model, got {type(model).__name__}: pass {hint}")
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    # Wrappers such as PEFT's keep the host inside and expose its configuration.
    unwrap: Any = getattr(model, "get_base_model", None)
    host = model if unwrap is None else unwrap()
    model_type = getattr(getattr(host, "config", None), "model_type", None)
    if model_type is None:
        raise UnsupportedModel(_unknown(type(host).__name__))
    if kind is not None and not (isinstance(kind, type) and issubclass(kind, Adapter)):
        raise UsageError(f"adapter must be a subclass of omnisift.Adapter, not an instance, got {kind!r:.80}")
    if kind is not None and isinstance(getattr(kind, "model_types", ""), str):
        raise UsageError(f"{kind.__name__} needs model_types, a frozenset of names such as {{{model_type!r}}}")
    if kind is not None and model_type not in kind.model_types:
        known = ", ".join(sorted(kind.model_types))
        raise UnsupportedModel(f"{kind.__name__} is for {known}, got model_type {model_type!r}: add it to model_types")
    return (kind or adapter_class(model_type))(host)


def adapter_class(model_type: object) -> type[Adapter]:
    """Return the adapter class of a model family.

    Args:
        model_type: as in the ``config.json`` of a checkpoint.

    Raises:
        UnsupportedModel: no adapter exists for this type.
    """
    for adapter in ADAPTERS:
        if isinstance(model_type, str) and model_type in adapter.model_types:
            return adapter
    raise UnsupportedModel(_unknown(f"model_type {model_type!r}"))


def model_class(model_type: object) -> Any:
    """Return the class of Transformers that generates text for a model family.

    Raises:
        UnsupportedModel: no adapter exists for this type, or the installed Transformers lacks the class.
    """
    import transformers

    adapter = adapter_class(model_type)
    found = getattr(transformers, adapter.model_class, None)
    if found is None:
        raise UnsupportedModel(
            f"model_type {model_type!r} needs {adapter.model_class}, which Transformers {transformers.__version__} "
            f"lacks; install Transformers {adapter.release} or newer"
        )
    return found


def _unknown(kind: str) -> str:
    known = ", ".join(sorted(name for adapter in ADAPTERS for name in adapter.model_types))
    return f"no adapter for {kind}. Known: {known}. See docs/add-a-model.md"


def _make_compressor(
    name: object, budget: Budget, selector: str | Path | VGAS | None, seed: int, language_model: nn.Module
) -> Compressor:
    """The method ``name`` in evaluation mode, its selector on the device and in the dtype of the embeddings."""
    if name is None or (isinstance(name, str) and reads_all_tokens(name)):
        raise UsageError(
            f"nothing to attach for compressor {name!r}: call the model without attach to read every token"
        )
    if not isinstance(name, str):
        raise UsageError(f"compressor must be the name of a method or a Compressor, got {type(name).__name__}")
    name, reason = resolve_method(name, selector=selector)
    check_selector(selector, name)
    vgas = _read_selector(name, selector, language_model) if needs_selector(name) else None
    made = make_compressor(name, budget, selector=vgas, seed=seed).eval()
    made.reason = reason
    return made


def _read_selector(name: str, selector: str | Path | VGAS | None, language_model: Any) -> VGAS:
    from omnisift.models.selector import check_input_size, read_selector_folder
    from omnisift.utils.safetensors_files import check_finite
    from omnisift.vgas import VGAS

    weight = language_model.get_input_embeddings().weight
    if selector is None:
        raise CompressorError(
            f"compressor {name!r} needs selector weights: pass selector=FOLDER or a VGAS, or choose a method without "
            "weights such as v_cast"
        )
    if isinstance(selector, VGAS):
        check_input_size(selector, weight.shape[1], type(selector).__name__)
        check_finite(type(selector).__name__, selector.named_parameters())
        vgas: Any = selector
    elif isinstance(selector, (str, Path)):
        vgas = read_selector_folder(Path(selector), weight.shape[1])
    else:
        raise UsageError(f"selector must be a folder or a VGAS, got {type(selector).__name__}")
    moved: VGAS = vgas.to(device=_device_of(language_model), dtype=weight.dtype)
    return moved


def _device_of(language_model: nn.Module) -> torch.device:
    """Where the language model computes. Offloaded weights are on the meta device between calls."""
    devices = (parameter.device for parameter in language_model.parameters())
    return next((device for device in devices if device.type != "meta"), torch.device("cpu"))
