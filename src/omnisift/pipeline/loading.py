"""Load a model, its processor and its selector: safetensors only, never remote code, never random weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from omnisift.errors import CheckpointError, CompressorError, UsageError
from omnisift.models import adapter_class, model_class
from omnisift.pipeline.checkpoint_checks import (
    check_generation,
    check_model_files,
    check_processor,
    check_processor_files,
)
from omnisift.pipeline.devices import DeviceMap, resolve_device, resolve_dtype
from omnisift.pipeline.model_source import ModelSource, fetch_selector, find_model
from omnisift.pipeline.quantization import (
    check_quantization,
    check_quantized,
    quantization_config,
    stored_config,
)
from omnisift.utils.checkpoint_files import AGAIN, checkpoint_errors
from omnisift.utils.quiet import quiet_transformers
from omnisift.utils.safetensors_files import tensor_names
from omnisift.utils.special_tokens import SpecialTokens
from omnisift.vgas import VGAS

if TYPE_CHECKING:
    from transformers.utils.quantization_config import QuantizationConfigMixin


@dataclass(frozen=True)
class Host:
    """A loaded model with its processor: the part that generates text, which is the thinker of an Omni model."""

    name: str
    """As the user gave it: ``nano``, a folder, or a hub id."""
    source: str
    """Folder or hub id that the weights came from."""
    thinker: Any = field(repr=False)
    processor: Any = field(repr=False)
    max_length: int | None = None
    """Maximum tokens of a prompt, after compression, and its answer together; None means the model's own context."""

    @property
    def is_nano(self) -> bool:
        """Whether this is the bundled model, which understands generated clips only."""
        return self.name == "nano"

    @property
    def hidden_size(self) -> int:
        """Width of the language model's embeddings."""
        return int(self.thinker.get_input_embeddings().weight.shape[1])

    @property
    def device(self) -> torch.device:
        """Where inputs belong: the device of the token embeddings."""
        device: torch.device = self.thinker.get_input_embeddings().weight.device
        # Offloaded weights are on no device; accelerate's hooks then move the inputs themselves.
        return torch.device("cpu") if device.type == "meta" else device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the embeddings, and of the floating-point inputs."""
        dtype: torch.dtype = self.thinker.get_input_embeddings().weight.dtype
        return dtype

    @property
    def stop_tokens(self) -> dict[str, Any]:
        """``eos_token_id`` and ``pad_token_id`` for ``generate``.

        They come from the tokenizer where the generation config has none: full-size checkpoints define them for the
        class around the thinker only.
        """
        generation, tokenizer = self.thinker.generation_config, self.processor.tokenizer
        eos = tokenizer.eos_token_id if generation.eos_token_id is None else generation.eos_token_id
        pad = tokenizer.pad_token_id if generation.pad_token_id is None else generation.pad_token_id
        if pad is None:
            pad = eos[0] if isinstance(eos, list) else eos
        return {"eos_token_id": eos, "pad_token_id": pad}


@dataclass(frozen=True)
class Placement:
    """Where and how a model is loaded, checked against this machine."""

    device: torch.device | None
    """None where ``device_map`` places the modules."""
    dtype: torch.dtype | str
    attn_implementation: str | None
    """None takes `Adapter.attn_implementation`."""
    device_map: DeviceMap | None
    max_length: int | None = None
    quantization: str | QuantizationConfigMixin | None = None


def plan_placement(
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    attn_implementation: str | None = None,
    device_map: DeviceMap | None = None,
    max_length: int | None = None,
    quantization: str | QuantizationConfigMixin | None = None,
) -> Placement:
    """Check where and how to load a model; no weights are read. Arguments as `omnisift.load` has them.

    Raises:
        UsageError: a value is unknown, this machine lacks the device or a package, or both a device and a map are
            given.
    """
    from transformers import AttentionInterface
    from transformers.utils.import_utils import is_accelerate_available

    if max_length is not None and max_length < 1:
        raise UsageError(f"max_length must be at least 1 token, got {max_length}")
    attention = attn_implementation or None
    known = ("eager", *AttentionInterface().valid_keys())
    # With a slash it is a kernel on the hub.
    if attention is not None and (not isinstance(attention, str) or (attention not in known and "/" not in attention)):
        raise UsageError(
            f"unknown attention implementation {attention!r}; use eager, sdpa, flash_attention_2 or another of "
            "Transformers"
        )
    check_quantization(quantization)
    if device_map is None:
        target = resolve_device(device)
        return Placement(target, resolve_dtype(dtype, target), attention, None, max_length, quantization)
    if device != "auto":
        raise UsageError("device and device_map were both given; give one of them")
    if not is_accelerate_available():
        raise UsageError("device_map needs accelerate, which is not installed; pip install accelerate")
    devices = device_map.values() if isinstance(device_map, Mapping) else [device_map]
    on_cpu = {str(item) for item in devices} <= {"cpu", "disk"}
    main = torch.device("cpu") if on_cpu else resolve_device("auto")
    return Placement(None, resolve_dtype(dtype, main), attention, device_map, max_length, quantization)


def load_host(
    model: str,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    attn_implementation: str | None = None,
    device_map: DeviceMap | None = None,
    max_length: int | None = None,
    quantization: str | QuantizationConfigMixin | None = None,
) -> Host:
    """Load model and processor. Arguments as `omnisift.load` has them.

    Raises:
        UsageError: unknown or unavailable device, dtype or attention, or a folder without a checkpoint.
        UnsupportedModel: the checkpoint is of another family.
        CheckpointError: weights are missing or unreadable.
    """
    placement = plan_placement(device, dtype, attn_implementation, device_map, max_length, quantization)
    return load_weights(find_model(model), placement)


def load_weights(source: ModelSource, placement: Placement) -> Host:
    """Load the model that `find_model` found, as `plan_placement` planned, with its processor.

    Raises:
        CheckpointError: weights are missing or unreadable.
    """
    # What Transformers reports about surplus tensors (a selector, a talker) is expected, and missing ones are an error
    # here. A download keeps its progress bars; for local files they are noise.
    with quiet_transformers(keep_progress=not source.local_files_only):
        thinker = _load_thinker(source, placement)
        processor = read_processor(source.source, local_files_only=source.local_files_only)
        # Models of Gemma 4 without an audio encoder have the processor of those with one.
        if getattr(thinker.config, "audio_config", None) is None and hasattr(processor, "feature_extractor"):
            processor.feature_extractor = None
        check_processor(processor, thinker.config, source.source)
        check_generation(thinker.generation_config, thinker.config.get_text_config().vocab_size, source.source)
        return Host(source.name, source.source, thinker, processor, placement.max_length)


def load_selector(host: Host, selector: str | Path | None) -> VGAS:
    """Load the selector of ``host``, on its device and in its dtype. Arguments and errors as for `read_selector`."""
    vgas: Any = read_selector(host.name, host.source, selector, host.hidden_size)
    loaded: VGAS = vgas.to(device=host.device, dtype=host.dtype).eval()
    return loaded


def read_selector(
    name: str, source: str, selector: str | Path | None, hidden_size: int, *, local_files_only: bool = True
) -> VGAS:
    """Read the selector of a model that is not loaded, in its stored dtype.

    Args:
        name: the model's name, for messages.
        source: folder or hub id of the model's checkpoint.
        selector: folder of the selector; None means ``selector/`` in the checkpoint, or the checkpoint's own tensors.
        hidden_size: width of the model's embeddings.
        local_files_only: whether to look for a hub model's selector in the cache alone.

    Raises:
        UsageError: ``selector`` is empty or not a folder.
        CompressorError: the checkpoint has no selector; the message names the remedies.
        CheckpointError: the selector is incomplete, or of another width.
    """
    from omnisift.models.selector import read_selector_folder

    if selector == "":
        raise UsageError("selector is an empty path: give a folder, or leave it out")
    folder = Path(selector) if selector is not None else _own_selector(name, source, local_files_only)
    return read_selector_folder(folder, hidden_size)


def selector_folder(source: str, local_files_only: bool) -> Path:
    """Return the folder of a checkpoint, in which its selector is, if it has one.

    Args:
        source: a folder, or a hub id, whose files that may hold a selector are downloaded.
        local_files_only: whether to look for a hub model's files in the cache alone.

    Raises:
        CheckpointError: the model is not in the cache, or a download fails.
    """
    return Path(source) if Path(source).is_dir() else fetch_selector(source, local_files_only)


def _own_selector(name: str, source: str, local_files_only: bool) -> Path:
    """The folder of a model's checkpoint that holds its selector."""
    folder = selector_folder(source, local_files_only)
    if (folder / "selector").is_dir():
        return folder / "selector"
    if has_selector(folder):
        return folder
    raise CompressorError(
        f"{name} has no selector weights; give a selector folder "
        "(--selector FOLDER), or choose a training-free compressor (--compressor v_cast; `omnisift methods` lists all)"
    )


def has_selector(folder: Path) -> bool:
    """Whether a checkpoint's folder holds a selector: in a folder of its own, or among the tensors of the model."""
    return (folder / "selector").is_dir() or any("compressor." in name for name in tensor_names(folder))


def _load_thinker(source: ModelSource, placement: Placement) -> Any:
    from transformers.utils.import_utils import is_accelerate_available

    device_map: Any = placement.device_map
    chosen = quantization_config(source, placement.quantization, placement.dtype)
    stored = stored_config(source)
    is_quantized = chosen is not None or stored is not None
    # Transformers builds the model without storage and fills it tensor by tensor from mapped files. With a device
    # map each tensor goes straight to its device. A device map needs accelerate; without it the weights pass through
    # host memory in their final dtype: measured on the CPU, a float32 checkpoint of 909 MB added 5 MB of private
    # memory as float32 (pages of the file) and 449 MB as bfloat16.
    if placement.device is not None and placement.device.type != "cpu":
        if is_accelerate_available():
            device_map = {"": placement.device}
        elif is_quantized:
            raise UsageError("a quantised model needs accelerate, which is not installed; pip install accelerate")
    check_model_files(source)
    advice = "give another quantization, or none" if chosen is not None else AGAIN
    if source.stored_quantization is not None:
        method = source.stored_quantization["quant_method"]
        advice = f"its weights are quantised ({method}): install what that needs, or give another checkpoint"
    with checkpoint_errors(source.source, advice):
        loaded: Any = model_class(source.model_type).from_pretrained(
            source.source,
            dtype=placement.dtype,
            attn_implementation=placement.attn_implementation or adapter_class(source.model_type).attn_implementation,
            device_map=device_map,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=source.local_files_only,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported below
            **({} if stored is None else {"config": stored}),
            **({} if chosen is None else {"quantization_config": chosen}),
        )
    thinker, info = loaded
    _check_loaded(source.source, info)
    if is_quantized:
        check_quantized(thinker, source.source, advice)
    # Quantised weights were loaded where they belong, and some of them can't be moved.
    if placement.device is not None and not is_quantized:
        thinker = thinker.to(placement.device)
    return thinker.eval()


def _check_loaded(source: str, info: Mapping[str, Any]) -> None:
    """`CheckpointError` unless every tensor of the thinker was read, in the shape and number of its configuration."""
    missing, mismatched = sorted(info["missing_keys"]), sorted(map(str, info["mismatched_keys"]))
    if missing:
        raise CheckpointError(
            f"{source} lacks {len(missing)} tensors of the model, first {missing[0]}; give a complete checkpoint"
        )
    if mismatched:
        raise CheckpointError(
            f"{source}: {len(mismatched)} tensors have another shape than config.json says, first {mismatched[0]}; use "
            "the config.json of these weights"
        )
    # Tensors of a selector, a talker or a vocoder are surplus; those of a layer are not.
    surplus = [name for name in sorted(info["unexpected_keys"]) if _is_layer(name)]
    if surplus:
        raise CheckpointError(
            f"{source} has {len(surplus)} tensors of layers that config.json does not describe, first {surplus[0]}; "
            "use the config.json of these weights"
        )


def _is_layer(name: str) -> bool:
    """Whether a tensor belongs to a layer of the thinker: of its language model or of an encoder."""
    return name.removeprefix("thinker.").startswith(("model.", "visual.", "audio_tower.")) and bool(
        re.search(r"\.(layers|blocks|merger_list|deepstack_merger_list)\.\d+\.", name)
    )


def read_processor(source: str, *, local_files_only: bool = False) -> Any:
    """Load the processor of a checkpoint, without its model.

    Args:
        source: folder or hub id.
        local_files_only: whether to look for a hub model in the cache alone.

    Raises:
        CheckpointError: a file of the processor is missing or broken.
    """
    from transformers import AutoProcessor

    if Path(source).is_dir():
        check_processor_files(Path(source))
    with checkpoint_errors(f"the processor in {source}", "save the processor in the model's folder"):
        return AutoProcessor.from_pretrained(source, trust_remote_code=False, local_files_only=local_files_only)


def special_tokens(model: str) -> SpecialTokens:
    """The special tokens of a model, whose weights are not read.

    Args:
        model: ``nano``, a checkpoint folder, or a hub id.

    Raises:
        OmniSiftError: the model is not found or not supported, or a file of its processor is missing or broken.
    """
    source = find_model(model)
    return SpecialTokens.of(read_processor(source.source, local_files_only=source.local_files_only).tokenizer)
