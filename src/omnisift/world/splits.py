"""Which scenes are for learning and which for judging: the three splits can't meet, whatever seeds are used.

Seed ``s`` of split number ``i`` becomes scene number ``3 s + i``. Every random draw of a scene comes from that number,
so two splits never share one: their numbers leave different remainders.
"""

from __future__ import annotations

import numpy as np

from omnisift.errors import UsageError

SPLITS: tuple[str, ...] = ("train", "validation", "test")


def scene_number(split: str, seed: int) -> int:
    """The number of the scene, unique over all splits and seeds. `UsageError` for another split or a negative seed."""
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}; choose one of: {', '.join(SPLITS)}")
    if seed < 0:
        raise UsageError(f"a seed must be 0 or more, got {seed}")
    return len(SPLITS) * int(seed) + SPLITS.index(split)


def generator(number: int, stream: int) -> np.random.Generator:
    """The random numbers of one part (``stream``) of one scene; the parts are independent of each other."""
    return np.random.default_rng((stream, number))
