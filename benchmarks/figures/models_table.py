"""Print the table of docs/models.md from benchmarks/results/families.json, which the contract of all families writes.

python benchmarks/figures/models_table.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omnisift.evaluation.tables import table
from omnisift.models import adapter_class

RESULTS = Path(__file__).parents[1] / "results" / "families.json"
NAMES = {
    "qwen2_5_omni_thinker": "Qwen2.5-Omni",
    "qwen3_omni_moe_thinker": "Qwen3-Omni",
    "qwen2_vl": "Qwen2-VL",
    "qwen2_5_vl": "Qwen2.5-VL",
    "qwen3_vl": "Qwen3-VL",
    "qwen3_vl_moe": "Qwen3-VL-MoE",
    "qwen3_5": "Qwen3.5",
    "qwen3_5_moe": "Qwen3.5-MoE",
    "gemma4": "Gemma 4 E2B, E4B",
    "gemma4-both-ways": "Gemma 4, frames seen both ways",
    "gemma4_unified": "Gemma 4 12B",
    "glm4v": "GLM-4.1V",
    "glm4v_moe": "GLM-4.5V",
    "glm46v": "GLM-4.6V",
    "glm_ocr": "GLM-OCR",
    "llava_onevision": "LLaVA-OneVision",
}
"""Host of the tests -> name in the table; hosts that are not named here have the name of their model type."""
DIFFERENCES = {
    "logits": "logits",
    "cached steps": "cached steps",
    "rows of a batch": "batch and single",
    "loss": "loss",
}
SAME = {"everything kept": "everything kept", "beams": "beams", "static cache": "static cache"}


def models_table(path: Path = RESULTS) -> str:
    """Families x checks: how many cases, and the largest difference."""
    families = json.loads(path.read_text(encoding="utf-8"))["families"]
    head = ["family", "class", "taken by", *DIFFERENCES.values(), *SAME.values(), "real weights", "GPU"]
    lines = []
    for host in [*NAMES, *sorted(families.keys() - NAMES.keys())]:
        checks: dict[str, Any] = families[host]
        model_type = host.partition("-")[0]
        differences = [f"{checks[check]['cases']}: {checks[check]['largest']:.0e}" for check in DIFFERENCES]
        same = [f"{checks[check]['cases']}: equal" if check in checks else "host fails" for check in SAME]
        adapter = adapter_class(model_type)
        # `omnisift verify` builds Qwen2.5-Omni alone, with random weights of real dimensions.
        gpu = "[random weights](gpu.md)" if model_type.startswith("qwen2_5_omni") else "no"
        name, entry = NAMES.get(host, host), "`load`" if adapter.is_loaded else "`attach`"
        lines.append([name, f"`{adapter.model_class}`", entry, *differences, *same, "no", gpu])
    return table(head, lines)


if __name__ == "__main__":
    print(models_table())
