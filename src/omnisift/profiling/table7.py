"""The paper's Table 7 beside our counts, in every reading of "FLOPs" that makes sense.

The table gives three totals and says neither which stages are in them nor how they were counted. Nothing here is
fitted: each reading either includes a part or leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from omnisift.profiling.analytic import Count

PAPER = {"full": 555.74, "0.35": 292.16, "0.25": 250.83}
"""TFLOPs: 7B on WorldSense, selector included; the clips, the prompt and the counter are not stated."""


@dataclass(frozen=True)
class FlopDefinition:
    """One way to count."""

    name: str
    tflops: float
    """Of the full prompt. This one depends on the clip, the ratios hardly."""
    ratios: dict[str, float]
    """Compressed over full, by the share kept."""
    deviations: dict[str, float]
    """Of a ratio from the paper's, as a share of the paper's; only where the paper has that share."""


def flop_definitions(config: Any, counts: Sequence[Count]) -> list[FlopDefinition]:
    """Of ``counts``, the full one first; ``config`` is the thinker's that they were made with."""
    row = 2 * config.text_config.hidden_size * config.text_config.vocab_size

    def model(one: Count) -> int:
        return one.stages["compress"].weights + one.stages["prefill"].weights

    def causal(one: Count) -> int:
        return one.total.total - one.stages["prefill"].pairs // 2

    ways: dict[str, Callable[[Count], int]] = {
        "all stages, attention between tokens left out": lambda one: one.total.weights,
        "the same, logits of the last token alone": lambda one: one.total.weights - (one.prompt - 1) * row,
        "all stages, attention over all pairs": lambda one: one.total.total,
        "all stages, half of the pairs (causal)": causal,
        "LLM and selector, attention left out": model,
        "LLM and selector, attention over all pairs": lambda one: (
            one.stages["compress"].total + one.stages["prefill"].total
        ),
    }
    return [_reading(name, way, counts) for name, way in ways.items()]


def _reading(name: str, way: Callable[[Count], int], counts: Sequence[Count]) -> FlopDefinition:
    full = way(counts[0])
    ratios = {one.retain: way(one) / full for one in counts[1:]}
    published = {retain: PAPER[retain] / PAPER["full"] for retain in ratios if retain in PAPER}
    return FlopDefinition(name, full / 1e12, ratios, {key: ratios[key] / value - 1 for key, value in published.items()})
