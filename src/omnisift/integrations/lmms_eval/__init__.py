"""How lmms-eval finds our model: the entry point ``lmms_eval.models`` in pyproject.toml names `manifests`.

lmms-eval loads this for every one of its runs, so nothing heavy is imported here.
"""

from __future__ import annotations

from typing import Any


def manifests() -> list[Any]:
    """The models that we register: ``--model omnisift``."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return [
        ModelManifest(
            model_id="omnisift",
            chat_class_path="omnisift.integrations.lmms_eval.model.OmniSift",
            aliases=("omnisift_qwen2_5_omni",),
        )
    ]
