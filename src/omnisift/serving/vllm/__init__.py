"""The plugin for vLLM (entry point ``vllm.general_plugins``): Qwen2.5-Omni with compressed prompts.

vLLM loads this module in each of its processes, whatever model it serves, so it imports nothing heavy. Users find it
described in docs/serving.md.
"""

from __future__ import annotations

import logging
import os

ARCHITECTURE = "OmniSiftQwen2_5OmniForConditionalGeneration"
"""Name of the model class in vLLM's registry: ``--hf-overrides '{"architectures": ["..."]}'``."""
CONNECTOR = "omnisift"
"""Name of the media reader: ``VLLM_MEDIA_CONNECTOR=omnisift``."""
SUPPORTED = "0.32."
"""Releases of vLLM that the plugin was tested with. It relies on internals that other releases may change."""

logger = logging.getLogger(__name__)


def register() -> None:
    """Register model and media reader with vLLM; a second call does nothing.

    In a release of vLLM that is not `SUPPORTED` it only logs a warning.
    """
    import vllm

    if not vllm.__version__.startswith(SUPPORTED):
        logger.warning("omnisift's plugin is for vLLM %sx and is not loaded in %s", SUPPORTED, vllm.__version__)
        return
    from vllm import ModelRegistry

    from omnisift.serving.vllm.choose_worker import choose_worker

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, "omnisift.serving.vllm.model:OmniSiftThinker")
    choose_worker(ARCHITECTURE)
    if os.environ.get("VLLM_MEDIA_CONNECTOR") == CONNECTOR:
        from omnisift.serving.vllm.connector import register_connector

        register_connector(CONNECTOR)
