"""How the selector's scores get a gradient: one estimator a file, chosen by name (docs/estimators.md)."""

from __future__ import annotations

from omnisift.errors import UsageError
from omnisift.estimators.base import Choice, Estimator
from omnisift.estimators.bias import Bias
from omnisift.estimators.gumbel import Gumbel
from omnisift.estimators.merge import Merge
from omnisift.estimators.perturbed import Perturbed
from omnisift.estimators.reinforce import Reinforce
from omnisift.estimators.straight_through import Literal

_KINDS: tuple[type[Estimator], ...] = (Literal, Merge, Bias, Gumbel, Perturbed, Reinforce)
ESTIMATORS: dict[str, type[Estimator]] = {kind.name: kind for kind in _KINDS}
"""By name. Distillation is not among them: it needs no gradient through the choice (`omnisift.training.distill`)."""


def make_estimator(name: str) -> Estimator:
    """The estimator called ``name``. Raises `UsageError` for an unknown one."""
    if name not in ESTIMATORS:
        raise UsageError(f"no estimator {name!r}; choose one of: {', '.join(ESTIMATORS)}")
    return ESTIMATORS[name]()


__all__ = ["ESTIMATORS", "Choice", "Estimator", "make_estimator"]
