"""Every internal of vLLM that the plugin relies on: a new release is checked against this file.

``from omnisift.serving.vllm.internals import NAME`` imports NAME from where `PLACES` says, and only then: vLLM loads
the plugin in each of its processes, also those that must not import its models. No other module of the package imports
from vLLM, except ``LLM``, ``SamplingParams`` and ``EngineArgs`` (public) in `omnisift.serving.offline`.

What the plugin relies on beyond the names is in `USED`: methods and attributes that it overrides, calls or sets.
``tests/serving/test_vllm_internals.py`` looks each of them up in the installed release. What a lookup can't tell:

- The runner calls ``recompute_mrope_positions`` of models with ``SupportsMultiModalPruning`` while vLLM's own pruning
  is on (``video_pruning_rate`` of the multimodal configuration), for every request at every step.
- The rows that ``embed_multimodal`` returns go to the encoder cache as they are, with their additional columns.
- Positions are whole numbers of at least 31 bits; new tokens get the index of the token plus the request's delta.
- ``CPUModelRunner.load_model`` leaves a flag unset, which `omnisift.serving.vllm.cpu_worker` sets (docs/upstream.md).
- Qwen3-Omni's rows of images and videos are wider than the hidden size: behind the embedding they hold features that
  are added after the first layers. Media whose labels are all the same are merged in the order of the prompt.
- Errors of type `ValueError` that a processor raises are answered with status 400.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

SUPPORTED = ("0.32.",)
"""Releases of vLLM that the plugin was tested with, as beginnings of the version."""

_QWEN2_5 = "vllm.model_executor.models.qwen2_5_omni_thinker"
_QWEN3 = "vllm.model_executor.models.qwen3_omni_moe_thinker"
_INTERFACES = "vllm.model_executor.models.interfaces"

PLACES = {
    # Models, and what prepares their requests.
    "Qwen2_5OmniThinkerForConditionalGeneration": _QWEN2_5,
    "Qwen2_5OmniThinkerDummyInputsBuilder": _QWEN2_5,
    "Qwen2_5OmniThinkerMultiModalDataParser": _QWEN2_5,
    "Qwen2_5OmniThinkerMultiModalProcessor": _QWEN2_5,
    "Qwen2_5OmniThinkerProcessingInfo": _QWEN2_5,
    "Qwen3OmniMoeThinkerForConditionalGeneration": _QWEN3,
    "Qwen3OmniMoeThinkerProcessingInfo": _QWEN3,
    "SupportsMultiModalPruning": _INTERFACES,
    "supports_multimodal_pruning": _INTERFACES,
    "MULTIMODAL_REGISTRY": "vllm.multimodal",
    "MultiModalFieldConfig": "vllm.multimodal.inputs",
    "ModalityDataItems": "vllm.multimodal.parse",
    "MultiModalDataItems": "vllm.multimodal.parse",
    "BaseMultiModalProcessor": "vllm.multimodal.processing.processor",
    "PromptReplacement": "vllm.multimodal.processing.processor",
    "PromptUpdateDetails": "vllm.multimodal.processing.processor",
    # Media of requests.
    "MEDIA_CONNECTOR_REGISTRY": "vllm.multimodal.media",
    "MediaConnector": "vllm.multimodal.media",
    "MediaIO": "vllm.multimodal.media",
    # Start of a server.
    "ModelRegistry": "vllm",
    "MODELS_CONFIG_MAP": "vllm.model_executor.models.config",
    "VerifyAndUpdateConfig": "vllm.model_executor.models.config",
    "current_platform": "vllm.platforms",
    "CPUWorker": "vllm.v1.worker.cpu_worker",
    "LinearBase": "vllm.model_executor.layers.linear",
    "UnquantizedLinearMethod": "vllm.model_executor.layers.linear",
    "Worker": "vllm.v1.worker.gpu_worker",
    "GPUModelRunner": "vllm.v1.worker.gpu_model_runner",
    "FlexibleArgumentParser": "vllm.utils.argparse_utils",
    "VLLMClientError": "vllm.exceptions",
}
"""Name -> module."""

USED = {
    "Qwen2_5OmniThinkerForConditionalGeneration": (
        "load_weights", "embed_multimodal", "embed_input_ids", "get_mrope_input_positions", "_process_video_input",
        "_process_audio_input", "_parse_and_validate_video_input",
    ),
    "Qwen3OmniMoeThinkerForConditionalGeneration": (
        "load_weights", "embed_multimodal", "embed_input_ids", "get_mrope_input_positions", "_process_video_input",
        "_process_audio_input", "_parse_and_validate_video_input",
    ),
    "Qwen2_5OmniThinkerMultiModalProcessor": (
        "apply", "_get_hf_mm_inputs", "_apply_hf_processor_main", "_get_mm_fields_config", "_get_prompt_updates",
        "_maybe_apply_prompt_updates", "_get_hf_mm_text",
    ),
    "BaseMultiModalProcessor": ("_maybe_apply_prompt_updates",),
    "Qwen2_5OmniThinkerProcessingInfo": (
        "get_data_parser", "get_mm_max_tokens_per_item", "get_feature_extractor", "get_hf_config",
        "get_target_channels", "_get_expected_hidden_size", "allow_missing_mm_embeddings",
    ),
    "Qwen3OmniMoeThinkerProcessingInfo": (
        "get_data_parser", "get_mm_max_tokens_per_item", "get_feature_extractor", "get_hf_config",
        "get_target_channels", "_get_expected_hidden_size", "allow_missing_mm_embeddings",
    ),
    "Qwen2_5OmniThinkerDummyInputsBuilder": ("get_dummy_text", "get_dummy_mm_data"),
    "Qwen2_5OmniThinkerMultiModalDataParser": ("_parse_video_data",),
    "SupportsMultiModalPruning": ("recompute_mrope_positions",),
    "ModalityDataItems": ("get_count", "get", "get_item_for_hash", "get_processor_data", "get_passthrough_data"),
    "MediaConnector": ("fetch_video", "fetch_video_async", "fetch_audio", "fetch_audio_async", "load_from_url",
                       "load_from_url_async"),
    "MediaIO": ("load_bytes", "load_base64", "load_file"),
    "ModelRegistry": ("register_model", "get_supported_archs"),
    "VerifyAndUpdateConfig": ("verify_and_update_config",),
    "CPUWorker": ("load_model",),
    "LinearBase": ("quant_method", "input_size"),
    "Worker": ("_make_model_runner",),
    "GPUModelRunner": ("_execute_mm_encoder",),
}  # fmt: skip
"""Class -> its methods and attributes that the plugin overrides or calls."""


Mixin: Any = object
"""Base of classes that stand before one of vLLM's, whose attributes they use and which has no types here."""


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PLACES[name]), name)


def is_supported(version: str) -> bool:
    """Whether the plugin was tested with a release of vLLM."""
    return version.startswith(SUPPORTED)


def supported_words() -> str:
    """Return the supported releases for a message: ``0.32.x``."""
    return " or ".join(f"{release}x" for release in SUPPORTED)
