"""Print the table of docs/fine-tuning.md: what the recipes for full-size models need, by `omnisift train`'s formula.

python benchmarks/figures/training_table.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from omnisift.evaluation.tables import table
from omnisift.profiling.shape import prompt_shape
from omnisift.profiling.sizes import host_config
from omnisift.training.finetune import TrainRecipe, load_train_recipe
from omnisift.training.finetune.cost import count_parameters, kept_tokens, row_flops, step_memory
from omnisift.training.finetune.plan import H100

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "train"
CASES = (("qwen2.5-omni-3b-lora", "3b"), ("qwen2.5-omni-7b-paper", "7b"))
SECONDS, ROWS = 60, 10_000
"""Length of a 1080p clip with audio, and rows of the data: what the hours are stated for."""


def training_table() -> str:
    """Tokens, parameters, memory and hours of each recipe; that for several GPUs also with FSDP2."""
    head = ["recipe", "tokens of a row", "trained", "weights", "optimizer", "activations", "GB in all", "GPU hours"]
    return table(head, [_line(name, size) for name, size in CASES])


def _line(name: str, size: str) -> list[str]:
    recipe: TrainRecipe = load_train_recipe(RECIPES / f"{name}.yaml")
    config = host_config(size)
    shape = prompt_shape(SECONDS, fps=recipe.fps, max_frames=recipe.max_frames)
    with torch.device("meta"):
        thinker = Qwen2_5OmniThinkerForConditionalGeneration(config)
    parameters = count_parameters(recipe, thinker)
    memory = step_memory(recipe, config, parameters, shape)
    hours = ROWS * row_flops(recipe, config, shape) / 1e12 / H100 / 3600
    sizes = [f"{value / 1e9:.1f}" for value in (memory.weights, memory.optimizer, memory.activations, memory.peak)]
    if recipe.processes is not None:
        sizes[-1] += f"; {memory.sharded(recipe.processes) / 1e9:.1f} on each of {recipe.processes} with FSDP2"
    tokens = f"{shape.prompt:,} -> {kept_tokens(recipe, shape):,}"
    return [f"`{name}`", tokens, f"{parameters.trained / 1e6:,.0f} M", *sizes, f"{hours:,.1f}"]


if __name__ == "__main__":
    print(training_table())
