"""Register OmniSIFT with lmms-eval: the entry point ``lmms_eval.models`` in pyproject.toml names `manifests`.

lmms-eval loads this module in each of its runs, so it imports nothing heavy.
"""

from __future__ import annotations

from typing import Any


def manifests() -> list[Any]:
    """Return the manifest of the model that is registered, ``--model omnisift``."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return [
        ModelManifest(
            model_id="omnisift",
            chat_class_path="omnisift.integrations.lmms_eval.model.OmniSift",
            aliases=("omnisift_qwen2_5_omni",),
        )
    ]
