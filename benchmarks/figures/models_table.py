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
}
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
    head = ["family", "class", *DIFFERENCES.values(), *SAME.values(), "real weights", "GPU"]
    lines = []
    for model_type, name in NAMES.items():
        checks: dict[str, Any] = families[model_type]
        differences = [f"{checks[check]['cases']}: {checks[check]['largest']:.0e}" for check in DIFFERENCES]
        same = [f"{checks[check]['cases']}: equal" for check in SAME]
        adapter = adapter_class(model_type)
        # `omnisift verify` builds Qwen2.5-Omni alone, with random weights of real dimensions.
        gpu = "[random weights](gpu.md)" if model_type.startswith("qwen2_5_omni") else "no"
        lines.append([name, f"`{adapter.model_class}`", *differences, *same, "no", gpu])
    return table(head, lines)


if __name__ == "__main__":
    print(models_table())
