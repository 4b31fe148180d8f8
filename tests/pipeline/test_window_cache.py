"""Windows that stand still, worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from omnisift.errors import UsageError
from omnisift.pipeline.preparation import lay_out
from omnisift.pipeline.window_cache import WindowCache

PATCH, TOKEN = 4, 8


def plain(steps: int, rows: int, columns: int) -> NDArray[np.uint8]:
    return np.full((2 * steps, rows * TOKEN, columns * TOKEN, 3), 100, np.uint8)


def test_windows_that_stand_still() -> None:
    pictures = plain(4, 10, 6)
    pictures[2:, 5 * TOKEN, 5 * TOKEN] = 255  # one pixel of the second step and all later ones
    patches, grid = lay_out(pictures, PATCH, 2, 2)
    changed = WindowCache(4).changed(patches, grid, 2)
    assert bool(changed[0].all())
    assert changed[1].nonzero().tolist() == [[row, column] for row in range(4, 8) for column in (4, 5)]
    assert not bool(changed[2:].any())
    # The difference of its patch: 155 of 255 in both pictures, 2 of 32 pixels.
    assert not bool(WindowCache(155 / 16).changed(patches, grid, 2)[1:].any())
    assert bool(WindowCache(155 / 16 - 0.01).changed(patches, grid, 2)[1:].any())


def test_slow_changes_add_up_over_calls() -> None:
    pictures = plain(6, 4, 4) + np.arange(12, dtype=np.uint8)[:, None, None, None] // 2
    patches, grid = lay_out(pictures, PATCH, 2, 2)
    together = WindowCache(2).changed(patches, grid, 2)
    assert together.flatten(1).all(dim=1).tolist() == [True, False, False, True, False, False]
    cache = WindowCache(2)
    calls = [cache.changed(part, [1, *grid[1:]], 2) for part in patches.chunk(6)]
    assert torch.equal(torch.cat(calls), together)


def test_frames_of_another_size() -> None:
    cache = WindowCache(2)
    cache.changed(*lay_out(plain(1, 4, 4), PATCH, 2, 2), 2)
    with pytest.raises(UsageError, match="frames of 4 x 5 tokens follow frames of another size"):
        cache.changed(*lay_out(plain(1, 4, 5), PATCH, 2, 2), 2)


@pytest.mark.parametrize("side", [0, 1.5, True, None])
def test_wrong_side(side: Any) -> None:
    with pytest.raises(UsageError, match="side is the number of tokens"):
        WindowCache(4, side)


@pytest.mark.parametrize("threshold", [-1, 256, True, "4", float("nan")])
def test_wrong_threshold(threshold: Any) -> None:
    with pytest.raises(UsageError, match="threshold is a difference of 8-bit values"):
        WindowCache(threshold)
