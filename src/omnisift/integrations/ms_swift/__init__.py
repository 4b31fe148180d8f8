"""ms-swift: `swift sft` on compressed prompts (docs/ms-swift.md). Only `register` needs ms-swift itself."""

from __future__ import annotations

from pathlib import Path

MODEL_TYPE = "omnisift_qwen2_5_omni"
"""What ``--model_type`` takes; the name of the template, too."""

_PLUGIN = Path(__file__).resolve().parent / "plugin" / "omnisift_ms_swift.py"


def plugin_path() -> Path:
    """The file for ``--external_plugins``.

    It lies alone in its folder: ms-swift puts the folder of a plugin first on ``sys.path``, where any neighbour would
    hide a module of the same name.
    """
    return _PLUGIN
