"""Gradient estimators for the selector: one per file, chosen by name (docs/estimators.md)."""

from __future__ import annotations

from omnisift.errors import UsageError
from omnisift.estimators.base import Estimator
from omnisift.estimators.bias import Bias
from omnisift.estimators.gumbel import Gumbel
from omnisift.estimators.merge import Merge
from omnisift.estimators.perturbed import Perturbed
from omnisift.estimators.reinforce import Reinforce
from omnisift.estimators.straight_through import StraightThrough
from omnisift.ops.selection_builder import Choice
from omnisift.utils.parsing import shown
from omnisift.utils.suggest import did_you_mean

_KINDS: tuple[type[Estimator], ...] = (StraightThrough, Merge, Bias, Gumbel, Perturbed, Reinforce)
ESTIMATORS: dict[str, type[Estimator]] = {kind.name: kind for kind in _KINDS}
"""Name -> class. Distillation is not an estimator: it needs no gradient through the choice of tokens."""
ALIASES = {"literal": "straight_through"}
"""Earlier names, which recipes and result files still contain."""


def make_estimator(name: str) -> Estimator:
    """Make an estimator by name.

    Args:
        name: a key of `ESTIMATORS` or of `ALIASES`.

    Raises:
        UsageError: the name is unknown.
    """
    kind = ESTIMATORS.get(ALIASES.get(name, name))
    if kind is None:
        raise UsageError(f"no estimator named {shown(name)}; {did_you_mean(name, ESTIMATORS)}")
    return kind()


__all__ = ["ALIASES", "ESTIMATORS", "Choice", "Estimator", "make_estimator"]
