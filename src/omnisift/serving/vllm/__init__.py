"""The plugin for vLLM (entry point ``vllm.general_plugins``): Qwen2.5-Omni, prompts compressed. See docs/serving.md.

vLLM loads this in each of its processes, whatever model it serves, so nothing heavy is imported here.
"""

from __future__ import annotations

import logging
import os

ARCHITECTURE = "OmniSiftQwen2_5OmniForConditionalGeneration"
"""The name under which vLLM finds the model: ``--hf-overrides '{"architectures": ["..."]}'``."""
CONNECTOR = "omnisift"
"""The name of the media reader: ``VLLM_MEDIA_CONNECTOR=omnisift``."""
SUPPORTED = "0.32."
"""Releases of vLLM that the plugin was tested with. It rests on internals that others may have otherwise."""

logger = logging.getLogger(__name__)


def register() -> None:
    """Make model and media reader known to vLLM; a second call does nothing. In other releases: a warning, no more."""
    import vllm

    if not vllm.__version__.startswith(SUPPORTED):
        logger.warning("omnisift's plugin is for vLLM %sx and stays out of %s", SUPPORTED, vllm.__version__)
        return
    from vllm import ModelRegistry

    from omnisift.serving.vllm.cpu import choose_worker

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, "omnisift.serving.vllm.model:OmniSiftThinker")
    choose_worker()
    if os.environ.get("VLLM_MEDIA_CONNECTOR") == CONNECTOR:
        from omnisift.serving.vllm.connector import make_known

        make_known()
