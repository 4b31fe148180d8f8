"""Load a model, its processor and its selector: safetensors only, never remote code, never random weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from omnisift.errors import CheckpointError, CompressorError, UsageError
from omnisift.pipeline.devices import DeviceMap, resolve_device, resolve_dtype
from omnisift.pipeline.model_source import ModelSource, find_model

if TYPE_CHECKING:
    from omnisift.vgas import VGAS

ADAPTER_PREFIX = "base_model.model.thinker.compressor."
"""Prefix of the selector's tensors in a PEFT adapter's file (docs/ms-swift.md)."""


@dataclass(frozen=True)
class Host:
    """A loaded thinker (the text-generating part of Qwen2.5-Omni) with its processor."""

    name: str
    """As the user gave it: ``nano``, a folder, or a hub id."""
    source: str
    """Folder or hub id that the weights came from."""
    thinker: Any
    processor: Any

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


@dataclass(frozen=True)
class Placement:
    """Where and how a model is loaded, checked against this machine."""

    device: torch.device | None
    """None where ``device_map`` places the modules."""
    dtype: torch.dtype | str
    attn_implementation: str
    device_map: DeviceMap | None


def plan_placement(
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    attn_implementation: str | None = None,
    device_map: DeviceMap | None = None,
) -> Placement:
    """Check where and how to load a model; no weights are read. Arguments as `omnisift.load` has them.

    Raises:
        UsageError: a value is unknown, this machine lacks the device, or both a device and a map are given.
    """
    from transformers import AttentionInterface
    from transformers.utils.import_utils import is_accelerate_available

    attention = attn_implementation or "sdpa"
    known = ("eager", *AttentionInterface().valid_keys())
    if attention not in known and "/" not in attention:  # with a slash it is a kernel on the hub
        raise UsageError(
            f"unknown attention implementation {attention!r}; use eager, sdpa, flash_attention_2 or another of "
            "Transformers"
        )
    if device_map is None:
        target = resolve_device(device)
        return Placement(target, resolve_dtype(dtype, target), attention, None)
    if device != "auto":
        raise UsageError("device and device_map were both given; give one of them")
    if not is_accelerate_available():
        raise UsageError("device_map needs accelerate, which is not installed; pip install accelerate")
    devices = device_map.values() if isinstance(device_map, Mapping) else [device_map]
    on_cpu = {str(item) for item in devices} <= {"cpu", "disk"}
    main = torch.device("cpu") if on_cpu else resolve_device("auto")
    return Placement(None, resolve_dtype(dtype, main), attention, device_map)


def load_host(
    model: str,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    attn_implementation: str | None = None,
    device_map: DeviceMap | None = None,
) -> Host:
    """Load model and processor. Arguments as `omnisift.load` has them.

    Raises:
        UsageError: unknown or unavailable device, dtype or attention, or a folder without a checkpoint.
        UnsupportedModel: the checkpoint is of another family.
        CheckpointError: weights are missing or unreadable.
    """
    placement = plan_placement(device, dtype, attn_implementation, device_map)
    return load_weights(find_model(model), placement)


def load_weights(source: ModelSource, placement: Placement) -> Host:
    """Load the model that `find_model` found, as `plan_placement` planned, with its processor.

    Raises:
        CheckpointError: weights are missing or unreadable.
    """
    # A download keeps its progress bar; for local files the bars are noise.
    with quiet_transformers() if source.local_files_only else nullcontext():
        thinker = _load_thinker(source, placement)
        return Host(source.name, source.source, thinker, _load_processor(source))


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide progress bars of Transformers and huggingface_hub inside the block; the user's own setting returns after."""
    from transformers.utils import logging

    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()


def load_selector(host: Host, selector: str | Path | None) -> VGAS:
    """Load the selector of ``host``: from the folder given, from ``selector/`` in the checkpoint, or from its tensors.

    Raises:
        CompressorError: the checkpoint has no selector; the message names the remedies.
        CheckpointError: a selector is there, but not all of it, or of another width.
    """
    vgas: Any = read_selector(host.name, host.source, selector, host.hidden_size)
    loaded: VGAS = vgas.to(device=host.device, dtype=host.dtype).eval()
    return loaded


def read_selector(name: str, source: str, selector: str | Path | None, width: int) -> VGAS:
    """As `load_selector`, for a model of which only ``name``, ``source`` and ``width`` are known: dtype as stored."""
    from omnisift.vgas import VGAS

    folder = Path(selector) if selector is not None else _own_selector(name, source)
    if not folder.is_dir():
        raise UsageError(f"no selector folder at {folder}; give one saved by VGAS.save_pretrained")
    vgas: VGAS
    with quiet_transformers():
        if _is_vgas(folder):
            vgas = VGAS.from_pretrained(str(folder))
        elif (folder / "adapter_config.json").is_file():
            vgas = VGAS.from_checkpoint(folder, ADAPTER_PREFIX)
        else:
            vgas = VGAS.from_checkpoint(folder)
    if vgas.config.width != width:
        raise CheckpointError(
            f"selector at {folder} has width {vgas.config.width}, the model {width}; give the selector of this model"
        )
    return vgas


def _own_selector(name: str, source: str) -> Path:
    from transformers.utils.hub import cached_file

    folder = Path(source)
    if not folder.is_dir():
        # The model was just loaded from the hub, so its snapshot lies in the cache.
        folder = Path(str(cached_file(source, "config.json", local_files_only=True))).parent
    if (folder / "selector").is_dir():
        return folder / "selector"
    if _holds_compressor(folder):
        return folder
    raise CompressorError(
        f"{name} has no selector weights, and omnisift never invents them; give a selector checkpoint "
        "(--selector FOLDER), or choose a training-free compressor (--compressor stvp; `omnisift methods` lists all)"
    )


def _is_vgas(folder: Path) -> bool:
    config = folder / "config.json"
    return config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("model_type") == "omnisift_vgas"


def _holds_compressor(folder: Path) -> bool:
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {})
        return any("compressor." in name for name in names)
    single = folder / "model.safetensors"
    if not single.is_file():
        return False
    with safe_open(str(single), framework="pt") as tensors:
        return any("compressor." in name for name in tensors.keys())  # noqa: SIM118  not a dict


def _load_thinker(source: ModelSource, placement: Placement) -> Any:
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker
    from transformers.utils.import_utils import is_accelerate_available

    device_map: Any = placement.device_map
    # Transformers builds the model without storage and fills it tensor by tensor from mapped files. With a device
    # map each tensor goes straight to its device. A device map needs accelerate; without it the weights pass through
    # host memory in their final dtype: measured on the CPU, a float32 checkpoint of 909 MB added 5 MB of private
    # memory as float32 (pages of the file) and 449 MB as bfloat16.
    if placement.device is not None and placement.device.type != "cpu" and is_accelerate_available():
        device_map = {"": placement.device}
    try:
        loaded: Any = Thinker.from_pretrained(
            source.source,
            dtype=placement.dtype,
            attn_implementation=placement.attn_implementation,
            device_map=device_map,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=source.local_files_only,
            output_loading_info=True,
        )
    except (OSError, ValueError, ImportError) as error:
        raise CheckpointError(f"can't load {source.source}: {str(error).strip().splitlines()[0]}") from error
    thinker, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{source.source} lacks {len(missing)} tensors of the thinker, first {missing[0]}; "
            "give a complete checkpoint"
        )
    if placement.device is not None:
        thinker = thinker.to(placement.device)
    return thinker.eval()


def _load_processor(source: ModelSource) -> Any:
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(
            source.source, trust_remote_code=False, local_files_only=source.local_files_only
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"no processor in {source.source}: {str(error).strip().splitlines()[0]}; "
            "save the processor in the model's folder"
        ) from error
