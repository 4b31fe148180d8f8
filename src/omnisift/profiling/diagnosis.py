"""What a model needs and what works with it, from its ``config.json`` alone: no weights are read."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from omnisift.budget import Budget
from omnisift.compressors import COMPRESSORS, needs_selector
from omnisift.models import adapter_class, model_class
from omnisift.pipeline.checkpoint_checks import (
    check_model_files,
    check_processor,
    check_processor_files,
    check_values,
)
from omnisift.pipeline.context import context_length
from omnisift.pipeline.devices import resolve_device, resolve_dtype
from omnisift.pipeline.loading import has_selector, read_processor
from omnisift.pipeline.method import resolve_compressor
from omnisift.pipeline.model_source import (
    COUNTED_ONLY,
    OMNI_ONLY,
    STREAMED_ONLY,
    ModelSource,
    find_model,
    takes_every_command,
)
from omnisift.profiling.analytic import cache_bytes, count, weight_bytes
from omnisift.profiling.shape import prompt_shape
from omnisift.utils.checkpoint_files import checkpoint_errors
from omnisift.utils.names import AUTO

MINUTE, RETAIN = 60.0, 0.25
"""The clip and the budget of the report: a minute of 1080p, sampled as `Pipeline.ask` does."""
_SIZES = {"bfloat16": 2, "float32": 4}
_COMMANDS = ("ask", "chat", "run", "inspect", "ui", "profile", "eval")
"""Commands that take every family."""
_CGROUP = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Need:
    """Bytes that a prompt about the clip needs, without activations."""

    dtype: str
    retain: str
    """``full``, or the share of tokens that is kept."""
    prompt: int
    """Tokens that the language model reads."""
    weights: int
    cache: int
    logits: int
    fits: bool | None
    """Whether the sum is within the memory of the device; None if that is unknown."""
    in_context: bool
    """Whether the prompt is within the context of the model."""

    @property
    def total(self) -> int:
        """Bytes together."""
        return self.weights + self.cache + self.logits


@dataclass(frozen=True)
class Diagnosis:
    """What `omnisift doctor --model` says."""

    model: str
    model_type: str
    model_class: str
    """The class of Transformers that is loaded."""
    release: str
    """The release of Transformers that has it."""
    installed: str
    """The installed release."""
    parameters: int
    quantization: str | None
    """How the weights are packed, which the bytes do not count; None if they are not."""
    context: int | None
    """Tokens of a prompt and its answer; None if the configuration has no limit."""
    hears: bool
    """Whether the model takes the audio of a clip."""
    weights_here: bool | None
    """Whether the folder has weights; None for a hub id, of which only the configuration was read."""
    selector_here: bool | None
    """Whether the folder has a selector; None for a hub id."""
    default: str | None
    """The method that is used if none is named; None for a hub id, where it depends on the selector."""
    device: str
    dtype: str
    """The default on this device."""
    memory: int | None
    """Bytes of the device; None if unknown."""
    needs: list[Need]
    """Empty for families whose prompts can't be counted."""
    methods: list[str]
    """Methods that need nothing else."""
    with_selector: list[str]
    """Methods that need the weights of a selector."""
    refused: dict[str, list[str]]
    """Method -> what it needs and the adapter of the family can't supply."""
    commands: list[str]
    other_commands: list[str]
    """Commands that do not take this family."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        needs = [{**asdict(need), "total": need.total} for need in self.needs]
        return {**asdict(self), "needs": needs}


def diagnose(model: str) -> Diagnosis:
    """Examine a model by its configuration.

    Args:
        model: ``nano``, a checkpoint folder, or a hub id, of which one file is fetched.

    Raises:
        UsageError: there is no such model.
        UnsupportedModel: the model is of another family, or the installed Transformers lacks its class.
        CheckpointError: its files are broken.
    """
    import transformers

    source = find_model(model)
    adapter, host_class = adapter_class(source.model_type), model_class(source.model_type)
    weights_here = _check_folder(source)
    device = resolve_device()
    memory = device_memory(device)
    with checkpoint_errors(f"{source.source}/config.json"):
        check_values(source.config, Path(source.source) / "config.json")
        weights = weight_bytes(source.config)
        context = context_length(source.config)
        needs = _needs(source.config, weights // 2, memory, context) if adapter.is_counted else []
        hears = adapter.without_model(source.config).audio_tokens(100) > 0
    missing = {name: sorted(method.needs - adapter.supplies) for name, method in COMPRESSORS.items()}
    usable = [name for name in COMPRESSORS if not missing[name]]
    counted = COUNTED_ONLY if adapter.is_counted else ()
    streamed = STREAMED_ONLY if adapter.is_streamed else ()
    every = OMNI_ONLY if takes_every_command(source.model_type) else ()
    commands = [*_COMMANDS, *streamed, *counted, *every]
    return Diagnosis(
        model=model,
        model_type=source.model_type,
        model_class=host_class.__name__,
        release=adapter.release,
        installed=transformers.__version__,
        parameters=weights // 2,
        quantization=None if source.stored_quantization is None else source.stored_quantization["quant_method"],
        context=context,
        hears=hears,
        weights_here=weights_here,
        selector_here=has_selector(Path(source.source)) if weights_here else None,
        default=None if weights_here is None else resolve_compressor(AUTO, source.source)[0],
        device=_device_name(device),
        dtype=str(resolve_dtype(None, device)).removeprefix("torch."),
        memory=memory,
        needs=needs,
        methods=[name for name in usable if not needs_selector(name)],
        with_selector=[name for name in usable if needs_selector(name)],
        refused={name: needed for name, needed in missing.items() if needed},
        commands=commands,
        other_commands=[name for name in (*STREAMED_ONLY, *COUNTED_ONLY, *OMNI_ONLY) if name not in commands],
    )


def device_memory(device: torch.device) -> int | None:
    """Bytes of a device: of a GPU its own, else those of the machine or its container; None if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
    try:
        limit = _CGROUP.read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def _device_name(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    count = torch.cuda.device_count()
    others = f", one of {count}, which --device-map auto uses together" if count > 1 else ""
    return f"cuda: {torch.cuda.get_device_name(device)}{others}"


def _check_folder(source: ModelSource) -> bool | None:
    """Check the files of a local checkpoint by their headers; whether it has weights, or None for a hub id."""
    folder = Path(source.source)
    if not folder.is_dir():
        return None
    check_processor_files(folder)
    if not any(folder.glob("*.safetensors")):
        return False
    check_model_files(source)
    check_processor(read_processor(source.source, local_files_only=True), source.config, source.source)
    return True


def _needs(config: Any, parameters: int, memory: int | None, context: int | None) -> list[Need]:
    counts = count(config, prompt_shape(MINUTE, config=config), [Budget(RETAIN)])
    needs = []
    for dtype, size in _SIZES.items():
        for each in counts:
            cache, logits = cache_bytes(config.text_config, each.prompt, size), each.logits_bytes // 2 * size
            total = parameters * size + cache + logits
            fits = None if memory is None else total <= memory
            in_context = context is None or each.prompt < context
            needs.append(Need(dtype, each.retain, each.prompt, parameters * size, cache, logits, fits, in_context))
    return needs
