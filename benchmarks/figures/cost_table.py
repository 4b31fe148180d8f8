"""Print the tables of README and docs/your-model.md: what a prompt costs, counted as `omnisift profile --config` does.

python benchmarks/figures/cost_table.py
"""

from __future__ import annotations

from omnisift.budget import Budget
from omnisift.evaluation.tables import table
from omnisift.profiling.analytic import Count, count, weight_bytes
from omnisift.profiling.shape import prompt_shape
from omnisift.profiling.sizes import host_config

MODELS = ("3b", "7b")
SECONDS = (20, 60, 240)
BUDGETS = (Budget(retain=0.35), Budget(retain=0.25))


def cost_table() -> str:
    """Tokens, TFLOP and GB of each model and clip length, with all tokens, 35 % and 25 %."""
    head = ["model", "clip", "prompt tokens: all / 35 % / 25 %", "TFLOP: all / 35 % / 25 %", "GB: all / 35 % / 25 %"]
    lines = []
    for model, seconds, counts in _counts():
        tokens = " / ".join(f"{one.prompt:,}" for one in counts)
        flops = " / ".join(f"{one.total.total / 1e12:,.0f}" for one in counts)
        size = " / ".join(f"{(one.cache_bytes + one.logits_bytes) / 1e9:.1f}" for one in counts)
        lines.append([model.upper(), f"{seconds} s", tokens, flops, size])
    return table(head, lines)


def memory_table() -> str:
    """GB of the weights and the KV cache of each model and clip length, and of both with the logits of one token."""
    head = ["model", "clip", "weights", "KV cache: all / 35 % / 25 %", "sum"]
    weights = {model: weight_bytes(host_config(model)) for model in MODELS}
    lines = []
    for model, seconds, counts in _counts():
        cache, logits = [one.cache_bytes for one in counts], [one.logits_bytes for one in counts]
        total = [weights[model] + sum(pair) for pair in zip(cache, logits, strict=True)]
        lines.append([model.upper(), f"{seconds} s", *map(_gigabytes, ([weights[model]], cache, total))])
    return table(head, lines)


def weights_sentence() -> str:
    """The size of the weights in words."""
    return ", ".join(f"{_gigabytes([weight_bytes(host_config(model))])} GB for {model.upper()}" for model in MODELS)


def _counts() -> list[tuple[str, int, list[Count]]]:
    shapes = {seconds: prompt_shape(seconds) for seconds in SECONDS}
    return [
        (model, seconds, count(host_config(model), shapes[seconds], BUDGETS)) for model in MODELS for seconds in SECONDS
    ]


def _gigabytes(values: list[int]) -> str:
    return " / ".join(f"{value / 1e9:.1f}" for value in values)


def main() -> None:
    """Print both tables."""
    print(weights_sentence(), cost_table(), memory_table(), sep="\n\n")


if __name__ == "__main__":
    main()
