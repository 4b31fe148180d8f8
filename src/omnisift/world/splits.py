"""Splits of the generated world; no two of them share a scene, for any seeds.

Seed ``s`` of split number ``i`` is scene number ``3 s + i``, and every random draw of a scene depends on that number.
"""

from __future__ import annotations

import numpy as np

from omnisift.errors import UsageError

SPLITS: tuple[str, ...] = ("train", "validation", "test")


def scene_number(split: str, seed: int) -> int:
    """Return the number of a scene, unique over all splits and seeds.

    Raises:
        UsageError: The split is unknown, or the seed is negative.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}; choose one of: {', '.join(SPLITS)}")
    if seed < 0:
        raise UsageError(f"a seed must be 0 or more, got {seed}")
    return len(SPLITS) * int(seed) + SPLITS.index(split)


def generator(number: int, stream: int) -> np.random.Generator:
    """Return the random numbers of one part (``stream``) of a scene, independent of the other parts."""
    return np.random.default_rng((stream, number))
