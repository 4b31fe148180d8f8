"""From a name to a model: the bundled nano, a checkpoint folder or a hub id, with its processor and its selector.

Safe by default: safetensors only, never remote code, nothing fetched for a local folder, and a checkpoint that lacks
weights is an error, never a model with random ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from omnisift.assets import nano_path
from omnisift.errors import CheckpointError, CompressorError, UnsupportedModel, UsageError

if TYPE_CHECKING:
    from omnisift.vgas import VGAS

ADAPTER_PREFIX = "base_model.model.thinker.compressor."
"""Where PEFT puts a selector that it saves with its adapter (docs/ms-swift.md)."""
_MODEL_TYPES = ("qwen2_5_omni", "qwen2_5_omni_thinker")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Host:
    """A loaded thinker (the part of Qwen2.5-Omni that reads and writes text) with its processor."""

    name: str
    source: str
    """Folder or hub id that the weights came from."""
    thinker: Any
    processor: Any

    @property
    def is_nano(self) -> bool:
        """Whether this is the bundled model, which knows only its own world."""
        return self.name == "nano"


def load_host(name: str, device: str, dtype: str | None, attn: str | None) -> Host:
    """Load model and processor.

    Args:
        name: ``nano``, a checkpoint folder, or a hub id (only then the hub may be asked).
        device: ``cpu``, ``cuda``, ``cuda:1`` ...
        dtype: ``float32``, ``bfloat16`` or ``float16``; None means float32 on a CPU, bfloat16 elsewhere.
        attn: attention implementation of Transformers; None means ``sdpa``.

    Raises:
        UsageError: unknown device or dtype, or a folder that is none.
        UnsupportedModel: the checkpoint is of another family.
        CheckpointError: weights are missing or unreadable.
    """
    where = _check_device(device)
    source = str(nano_path()) if name == "nano" else name
    _check_model_type(source)
    thinker = _load_thinker(source, _check_dtype(dtype, where), attn or "sdpa").to(where).eval()
    return Host(name, source, thinker, _load_processor(source))


def load_selector(host: Host, selector: str | Path | None) -> VGAS:
    """Load the selector of ``host``: from the folder given, from ``selector/`` in the checkpoint, or from its tensors.

    Raises:
        CompressorError: the checkpoint has no selector; the message names the remedies.
        CheckpointError: a selector is there, but not all of it, or of another width.
    """
    width = host.thinker.get_input_embeddings().weight.shape[1]
    vgas: Any = read_selector(host.name, host.source, selector, width)
    parameter = next(host.thinker.parameters())
    loaded: VGAS = vgas.to(device=parameter.device, dtype=parameter.dtype).eval()
    return loaded


def read_selector(name: str, source: str, selector: str | Path | None, width: int) -> VGAS:
    """As `load_selector`, for a model of which only ``name``, ``source`` and ``width`` are known: dtype as stored."""
    from omnisift.vgas import VGAS

    folder = Path(selector) if selector is not None else _own_selector(name, source)
    if not folder.is_dir():
        raise UsageError(f"no selector folder at {folder}; give one saved by VGAS.save_pretrained")
    vgas: VGAS
    if _is_vgas(folder):
        vgas = VGAS.from_pretrained(str(folder))
    elif (folder / "adapter_config.json").is_file():
        vgas = VGAS.from_checkpoint(folder, ADAPTER_PREFIX)
    else:
        vgas = VGAS.from_checkpoint(folder)
    if vgas.config.input_size != width:
        raise CheckpointError(
            f"selector at {folder} has width {vgas.config.input_size}, the model {width}; "
            "give the selector of this model"
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


def _check_device(device: str) -> torch.device:
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"unknown device {device!r}; use cpu, cuda or cuda:N") from error
    if where.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {device!r} was asked for, but this torch sees no CUDA device; use cpu")
    return where


def _check_dtype(dtype: str | None, device: torch.device) -> torch.dtype:
    if dtype is None:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if dtype not in _DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}; use one of {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def _check_model_type(source: str) -> None:
    from transformers import PretrainedConfig

    if Path(source).exists() and not (Path(source) / "config.json").is_file():
        raise UsageError(f"{source} holds no config.json; give a checkpoint folder, a hub id, or nano")
    try:
        config, _ = PretrainedConfig.get_config_dict(source)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"can't load a model named {source!r}; give nano, an existing checkpoint folder, or a hub id that is "
            "reachable or cached"
        ) from error
    model_type = config.get("model_type")
    if model_type not in _MODEL_TYPES:
        raise UnsupportedModel(
            f"no adapter for model_type {model_type!r}. Known: {', '.join(_MODEL_TYPES)}. See docs/add-a-model.md"
        )


def _load_thinker(source: str, dtype: torch.dtype, attn: str) -> Any:
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

    options: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": attn,
        "use_safetensors": True,
        "output_loading_info": True,
    }
    try:
        loaded: Any = Thinker.from_pretrained(source, **options)
    except (OSError, ValueError, ImportError) as error:
        raise CheckpointError(f"can't load {source}: {str(error).strip().splitlines()[0]}") from error
    thinker, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{source} lacks {len(missing)} tensors of the thinker, first {missing[0]}; give a whole checkpoint"
        )
    return thinker


def _load_processor(source: str) -> Any:
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"no processor in {source}: {str(error).strip().splitlines()[0]}; save the processor beside the model"
        ) from error
