"""Plugin for ms-swift: `swift sft` on compressed prompts (docs/ms-swift.md). Only `register` imports ms-swift."""

from __future__ import annotations

from pathlib import Path

MODEL_TYPE = "omnisift_qwen2_5_omni"
"""Value of ``--model_type``, and name of the template."""

_PLUGIN = Path(__file__).resolve().parent / "plugin" / "omnisift_ms_swift.py"


def plugin_path() -> Path:
    """Return the file for ``--external_plugins``.

    It is alone in its folder, because ms-swift puts the folder of a plugin first on ``sys.path``, where another file
    would hide a module of the same name.
    """
    return _PLUGIN
