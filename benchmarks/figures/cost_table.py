"""Print the tables of README, docs/your-model.md and docs/streaming.md: what a prompt costs, counted from dimensions.

python benchmarks/figures/cost_table.py
"""

from __future__ import annotations

from collections.abc import Sequence

from omnisift.budget import Budget
from omnisift.evaluation.tables import table
from omnisift.profiling.analytic import Count, count, weight_bytes
from omnisift.profiling.flops import Flops, language_model
from omnisift.profiling.shape import prompt_shape
from omnisift.profiling.sizes import host_config

MODELS = ("3b", "7b")
SECONDS = (20, 60, 240)
BUDGETS = (Budget(retain=0.35), Budget(retain=0.25))
UNIT, QUESTION = 2, 30
"""Seconds of a unit of a stream, and tokens of a question."""


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


def stream_table(seconds: Sequence[int] = (10, 30, 60, 120)) -> str:
    """TFLOP of a question about 7B: of a clip from its beginning, and about a stream that was read so far."""
    config = host_config("7b")
    unit = count(config, prompt_shape(UNIT), BUDGETS)[-1]
    unfinished = sum((unit.stages[name] for name in ("encode_video", "encode_audio", "compress")), Flops())
    head = [
        "so far",
        "clip, all tokens",
        "clip, 25 %",
        "stream, right after a unit",
        "stream, just before the next one",
    ]
    lines = []
    for length in seconds:
        whole, _, kept = count(config, prompt_shape(length), BUDGETS)
        held, own = kept.video + kept.audio, unit.video + unit.audio
        asked = language_model(config.text_config, QUESTION, cached=held, logits=1)
        late = unfinished + language_model(config.text_config, own + QUESTION, cached=held, logits=1)
        costs = [f"{one.total / 1e12:,.1f}" for one in (whole.total, kept.total, asked, late)]
        lines.append([f"{length} s", *costs])
    return table(head, lines)


def _counts() -> list[tuple[str, int, list[Count]]]:
    shapes = {seconds: prompt_shape(seconds) for seconds in SECONDS}
    return [
        (model, seconds, count(host_config(model), shapes[seconds], BUDGETS)) for model in MODELS for seconds in SECONDS
    ]


def _gigabytes(values: list[int]) -> str:
    return " / ".join(f"{value / 1e9:.1f}" for value in values)


def main() -> None:
    """Print all tables."""
    print(weights_sentence(), cost_table(), memory_table(), stream_table(), sep="\n\n")


if __name__ == "__main__":
    main()
