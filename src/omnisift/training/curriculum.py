"""A budget that falls while a model is trained: it begins where the model loses little, and ends where it is used."""

from __future__ import annotations

from omnisift.budget import Budget
from omnisift.compressors import Compressor
from omnisift.errors import UsageError
from omnisift.utils.parsing import shown

FALL_RATIO = 0.5
"""Share of the steps in which the budget falls; it is constant afterwards."""


def check_start(start: float, budget: Budget) -> None:
    """Check the fraction at which a budget starts to fall.

    Raises:
        UsageError: the budget is a number of tokens, or ``start`` is not between every fraction of it and 1.
    """
    if budget.tokens is not None:
        raise UsageError("retain_start is a fraction and tokens a number; give retain instead of tokens")
    fractions = (budget.retain, budget.retain_video, budget.retain_audio)
    lowest = min(fraction for fraction in fractions if fraction is not None)
    if not lowest < start < 1:
        raise UsageError(f"retain_start must be above the fraction kept, {lowest:g}, and below 1, got {shown(start)}")


def falling_budget(budget: Budget, start: float | None, progress: float, fall_ratio: float = FALL_RATIO) -> Budget:
    """Return the budget of a training step.

    Each fraction that is below ``start`` falls linearly from there.

    Args:
        budget: the budget at the end, in fractions.
        start: the fraction kept in the first step; None keeps ``budget`` throughout.
        progress: share of the steps that are finished, from 0 to 1.
        fall_ratio: share of the steps in which the fraction falls.
    """
    left = 1 - progress / fall_ratio
    if start is None or left <= 0:
        return budget

    def now(end: float | None) -> float | None:
        return end if end is None else end + max(0.0, start - end) * left

    video, audio = now(budget.retain_video), now(budget.retain_audio)
    return Budget(now(budget.retain), video, audio, compress_audio=budget.compress_audio)


def set_budget(compressor: Compressor, budget: Budget) -> None:
    """Give a method, and both methods of a pair, another budget."""
    for part in compressor.modules():
        if isinstance(part, Compressor):
            part.budget = budget
