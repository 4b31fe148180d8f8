"""The methods, by name. One file per method; none of them knows a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omnisift.budget import Budget
from omnisift.compressors.base import Compressor, ScoredCompressor
from omnisift.compressors.omnisift import OmniSiftCompressor
from omnisift.compressors.random import RandomCompressor
from omnisift.compressors.uniform import UniformCompressor
from omnisift.errors import CompressorError

if TYPE_CHECKING:
    from omnisift.vgas import VGAS

COMPRESSORS: dict[str, type[Compressor]] = {
    method.name: method for method in (OmniSiftCompressor, RandomCompressor, UniformCompressor)
}
"""Name -> class of every method of this package."""

__all__ = ["COMPRESSORS", "Compressor", "ScoredCompressor", "make_compressor"]


def make_compressor(name: str, budget: Budget, *, selector: VGAS | None = None, seed: int = 0) -> Compressor:
    """Make a method by name. ``selector`` is for ``omnisift``, ``seed`` for ``random``; others ignore them.

    Raises `CompressorError` for an unknown name, or for ``omnisift`` without selector weights.
    """
    if name == OmniSiftCompressor.name:
        if selector is None:
            raise CompressorError(
                "compressor 'omnisift' needs selector weights and none were given: "
                "name a checkpoint that has them, or choose a training-free compressor: random, uniform"
            )
        return OmniSiftCompressor(budget, selector)
    if name == RandomCompressor.name:
        return RandomCompressor(budget, seed=seed)
    if name == UniformCompressor.name:
        return UniformCompressor(budget)
    raise CompressorError(f"no compressor named {name!r}; known: {', '.join(sorted(COMPRESSORS))}")
