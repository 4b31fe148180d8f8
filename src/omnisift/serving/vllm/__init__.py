"""The plugin for vLLM (entry point ``vllm.general_plugins``): omni models with compressed prompts.

vLLM loads this module in each of its processes, whatever model it serves, so it imports nothing heavy. Users find it
described in docs/serving.md.
"""

from __future__ import annotations

import logging
import os

from omnisift.serving.families import SERVED
from omnisift.serving.vllm.internals import is_supported, supported_words

ARCHITECTURE = SERVED["qwen2_5_omni"].architecture
"""Name of the model class for Qwen2.5-Omni in vLLM's registry: ``--hf-overrides '{"architectures": ["..."]}'``."""
CONNECTOR = "omnisift"
"""Name of the media reader: ``VLLM_MEDIA_CONNECTOR=omnisift``."""

logger = logging.getLogger(__name__)


def register() -> None:
    """Register models and media reader with vLLM; a second call does nothing.

    In a release of vLLM that was not tested the plugin's architectures are refused; other models are not affected.
    """
    import vllm

    if not is_supported(vllm.__version__):
        from omnisift.serving.vllm.refusal import refuse_architecture

        logger.warning("omnisift's plugin is for vLLM %s and refuses its models in %s", supported_words(),
                       vllm.__version__)  # fmt: skip
        for family in SERVED.values():
            refuse_architecture(family.architecture)
        return
    from omnisift.serving.vllm.choose_worker import choose_worker
    from omnisift.serving.vllm.internals import ModelRegistry

    for family in SERVED.values():
        if family.architecture not in ModelRegistry.get_supported_archs():
            ModelRegistry.register_model(family.architecture, family.thinker)
        choose_worker(family.architecture)
    if os.environ.get("VLLM_MEDIA_CONNECTOR") == CONNECTOR:
        from omnisift.serving.vllm.connector import register_connector

        register_connector(CONNECTOR)
