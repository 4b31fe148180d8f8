"""The formula for memory and time of a training step (`omnisift train --dry-run`) against what was measured.

The models are those of `training.py`: 16 layers of width 256 with random weights, on about 4,000 tokens. Memory is the
largest sum of tensors, by torch's profiler; operations are those of torch's counter; seconds are the median of a few
steps on one thread, against the formula's operations at the speed of a product of matrices. They are seconds of the
processor, so that other work on the machine does not count. Prints one JSON line per case.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from omnisift.profiling.gauges import memory_gauge, torch_counter
from omnisift.profiling.shape import PromptShape
from omnisift.training.finetune import TrainRecipe
from omnisift.training.finetune.cost import Parameters, row_flops, step_memory
from omnisift.training.finetune.plan import matrix_tflops
from omnisift.utils.provenance import machine_info

sys.path.insert(0, str(Path(__file__).parent))
from training import HEIGHT, SECONDS, WIDTH_OF_GRID, build

STAGE = "prefill"
"""Any stage that the gauge knows: a step is one stage here."""
CASES: dict[str, dict[str, Any]] = {
    "25 %": {"retain": 0.25},
    "all tokens": {"retain": 1.0},
    "25 %, gradient checkpointing": {"retain": 0.25, "gradient_checkpointing": True},
}


def measure(name: str, steps: int) -> dict[str, Any]:
    """One case: the formula, what was measured, and their ratios."""
    recipe = TrainRecipe(
        "random", ("data",), "out", train_selector=True, estimator="straight_through", **CASES[name]
    )  # fmt: skip
    model, batch = build(recipe.retain)
    if recipe.gradient_checkpointing:
        model.thinker.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.thinker.disable_input_require_grads()
    config = model.thinker.config
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    clip = PromptShape(SECONDS, HEIGHT, WIDTH_OF_GRID, 100 * SECONDS, 0, 1.0)
    shape = PromptShape(
        *(SECONDS, HEIGHT, WIDTH_OF_GRID, 100 * SECONDS), batch["input_ids"].shape[1] - clip.prompt, 1.0
    )
    memory = step_memory(recipe, config, Parameters(trained, sum(p.numel() for p in parameters) - trained), shape)
    optimizer = torch.optim.AdamW([p for p in parameters if p.requires_grad], lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()

    step()  # creates the moments
    seconds = []
    for _ in range(steps):
        begin = time.process_time()
        step()
        seconds.append(time.process_time() - begin)
    optimizer.zero_grad()
    with memory_gauge(torch.device("cpu")) as gauge:
        gauge.stage(STAGE)
        step()
    fixed = sum(p.nbytes for p in parameters) + sum(
        value.nbytes for state in optimizer.state.values() for value in state.values()
    )
    with torch_counter() as counter:
        step()
    rate = matrix_tflops("cpu", torch.float32, seconds=2.0, clock=time.process_time)
    flops = row_flops(recipe, config, shape)
    measured = {
        "bytes": fixed + gauge.peaks[STAGE],
        "flops": counter.get_total_flops(),
        "seconds": statistics.median(seconds),
    }
    formula = {"bytes": memory.peak, "flops": flops, "seconds": flops / rate / 1e12}
    ratios = {key: round(formula[key] / measured[key], 2) for key in measured}
    return {"case": name, "formula": formula, "measured": measured, "formula / measured": ratios, "tflops": rate}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in CASES:
        row = {"bench": "training_cost", **measure(name, options.steps), **machine_info("torch", "transformers")}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
