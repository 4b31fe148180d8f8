"""Comparison with the FLOPs of the paper's Table 7, under each plausible definition of "FLOPs".

The table has three totals and states neither which stages they include nor how they were counted. Nothing is fitted: a
definition includes a part or leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from omnisift.profiling.analytic import Count

PAPER = {"full": 555.74, "0.35": 292.16, "0.25": 250.83}
"""Budget -> TFLOP of 7B on WorldSense with the selector; clips, prompt and counter are not stated."""


@dataclass(frozen=True)
class FlopDefinition:
    """Counts under one definition."""

    name: str
    tflops: float
    """TFLOP of the full prompt. It depends on the clip; the ratios hardly do."""
    ratios: dict[str, float]
    """Budget -> compressed divided by full."""
    deviations: dict[str, float]
    """Budget -> relative deviation of the ratio from the paper's, for budgets of the paper."""


def flop_definitions(config: Any, counts: Sequence[Count]) -> list[FlopDefinition]:
    """Return the FLOPs under each definition.

    Args:
        config: Configuration of the thinker.
        counts: Counts of that thinker, the full prompt first.
    """
    # Logits of one token.
    row = 2 * config.text_config.hidden_size * config.text_config.vocab_size

    def model(count: Count) -> int:
        return count.stages["compress"].weights + count.stages["prefill"].weights

    def causal(count: Count) -> int:
        return count.total.total - count.stages["prefill"].pairs // 2

    definitions: dict[str, Callable[[Count], int]] = {
        "all stages, attention between tokens left out": lambda count: count.total.weights,
        "the same, logits of the last token alone": lambda count: count.total.weights - (count.prompt - 1) * row,
        "all stages, attention over all pairs": lambda count: count.total.total,
        "all stages, half of the pairs (causal)": causal,
        "LLM and selector, attention left out": model,
        "LLM and selector, attention over all pairs": lambda count: (
            count.stages["compress"].total + count.stages["prefill"].total
        ),
    }
    return [_definition(name, total, counts) for name, total in definitions.items()]


def _definition(name: str, total: Callable[[Count], int], counts: Sequence[Count]) -> FlopDefinition:
    full = total(counts[0])
    ratios = {count.retain: total(count) / full for count in counts[1:]}
    published = {retain: PAPER[retain] / PAPER["full"] for retain in ratios if retain in PAPER}
    return FlopDefinition(name, full / 1e12, ratios, {key: ratios[key] / value - 1 for key, value in published.items()})
