"""The model families that the plugin for vLLM serves. It imports nothing heavy: each process of vLLM loads it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServedFamily:
    """A family, by the ``model_type`` of its full checkpoints."""

    model_type: str
    name: str
    architecture: str
    """Name of the plugin's model class in vLLM's registry: ``--hf-overrides '{"architectures": ["..."]}'``."""
    thinker: str
    """The plugin's model class, ``module:class``."""


_MODELS = "omnisift.serving.vllm.model"

SERVED = {
    family.model_type: family
    for family in (
        ServedFamily(
            "qwen2_5_omni",
            "Qwen2.5-Omni",
            "OmniSiftQwen2_5OmniForConditionalGeneration",
            f"{_MODELS}:OmniSiftThinker",
        ),
        ServedFamily(
            "qwen3_omni_moe",
            "Qwen3-Omni",
            "OmniSiftQwen3OmniMoeForConditionalGeneration",
            f"{_MODELS}:OmniSiftQwen3Thinker",
        ),
    )
}
"""Families by ``model_type``."""
