"""Which tokens are encoded, against the scores worked out on the pictures themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from omnisift.errors import BudgetError, UsageError
from omnisift.pipeline.patch_pruning import PatchPruner
from omnisift.pipeline.preparation import lay_out
from omnisift.world import make_scene, render_images, truth

PATCH, TOKEN = 4, 8
Pictures = NDArray[np.uint8]


def noise(steps: int, rows: int, columns: int, seed: int = 0) -> Pictures:
    """[2 * steps, H, W, 3]: noise whose mean and strength differ from token to token."""
    random = np.random.default_rng(seed)
    mean, strength = (random.uniform(*span, (2 * steps, rows, columns, 3)) for span in ((60, 190), (0, 60)))
    large = [np.kron(part, np.ones((1, TOKEN, TOKEN, 1))) for part in (mean, strength)]
    return (large[0] + large[1] * random.uniform(-1, 1, large[0].shape)).astype(np.uint8)


def plain(steps: int, rows: int, columns: int) -> Pictures:
    return np.full((2 * steps, rows * TOKEN, columns * TOKEN, 3), 100, np.uint8)


def chosen(pictures: Pictures, share: float, side: int = 1) -> Tensor:
    return PatchPruner(share, side).places(*lay_out(pictures, PATCH, 2, 2), 2)


def scores(pictures: Pictures) -> NDArray[np.float64]:
    """[t, rows, columns]: contrast, detail and change of every token, in the words of the class."""
    steps, (height, width) = len(pictures) // 2, pictures.shape[1:3]
    cells = pictures.astype(float).reshape(steps, 2, height // PATCH, PATCH, width // PATCH, PATCH, 3)
    colour, deviation = cells.mean(axis=(1, 3, 5)), cells.std(axis=(1, 3, 5))

    def by_token(values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean over the patches of each token."""
        return values.reshape(steps, height // TOKEN, 2, width // TOKEN, 2, *values.shape[3:]).mean(axis=(2, 4))

    mean = by_token(colour)
    contrast = np.linalg.norm(mean - torch.from_numpy(mean).flatten(1, 2).median(dim=1).values[:, None, None].numpy(),
                              axis=-1)  # fmt: skip
    change = np.zeros_like(contrast)
    for step in range(1, steps, 2):
        change[step] = by_token(np.linalg.norm(colour - np.roll(colour, 1, axis=0), axis=-1))[step]
    return contrast + by_token(deviation).mean(axis=-1) + change


def test_highest_scores() -> None:
    pictures = noise(4, 5, 7)
    made = chosen(pictures, 0.4)
    expected = scores(pictures).reshape(2, 2, 35).max(axis=1)
    for chunk in range(2):
        best = np.argsort(-expected[chunk])[:14]
        assert set(made[2 * chunk].flatten().nonzero()[:, 0].tolist()) == set(best.tolist())


@pytest.mark.parametrize("cue", ["contrast", "detail", "change"])
def test_each_cue_alone(cue: str) -> None:
    pictures = plain(2, 4, 4)
    there = pictures[:, TOKEN : 2 * TOKEN, 2 * TOKEN : 3 * TOKEN]
    if cue == "contrast":
        there[:] = 160
    elif cue == "detail":
        there[:, ::2], there[:, 1::2] = 40, 160
    else:
        # Half of the other tokens stand out by less in both frames than this one changes between them.
        pictures[:, : 2 * TOKEN, : 2 * TOKEN] = 120
        there[2:] = 130
    places = chosen(pictures, 1 / 16)
    assert places.nonzero().tolist() == [[0, 1, 2], [1, 1, 2]]


@pytest.mark.parametrize(("share", "count"), [(1.0, 35), (0.5, 18), (0.4, 14), (0.01, 1), (1e-15, 1)])
def test_counts(share: float, count: int) -> None:
    places = chosen(noise(5, 5, 7), share)
    assert places.shape == (5, 5, 7)
    assert places.flatten(1).sum(dim=1).tolist() == [count] * 5
    # Both frames of a chunk have the same places; a last frame is a chunk of its own.
    assert torch.equal(places[0:4:2], places[1:4:2])
    if 1 < count < 35:
        assert not torch.equal(places[1], places[2])
        assert not torch.equal(places[3], places[4])


def test_parts_of_a_clip() -> None:
    pictures = noise(7, 6, 5)
    parts = [chosen(part, 0.3, side=2) for part in (pictures[:4], pictures[4:12], pictures[12:])]
    assert torch.equal(torch.cat(parts), chosen(pictures, 0.3, side=2))


def test_windows() -> None:
    rows, columns = 18, 14  # 5 x 4 windows, of which the last ones have 2 rows or columns
    places = chosen(noise(2, rows, columns), 0.5, side=4)[0]
    sizes = []
    for row in range(0, rows, 4):
        for column in range(0, columns, 4):
            window = places[row : row + 4, column : column + 4]
            assert bool(window.all() | ~window.any())
            sizes += [window.numel()] * bool(window.all())
    assert 126 <= sum(sizes) < 126 + 16
    assert len(set(sizes)) > 1


@pytest.mark.parametrize(("rows", "columns", "side"), [(16, 16, 4), (15, 12, 2), (13, 16, 4), (8, 7, 2), (4, 4, 1)])
def test_small_frames_have_smaller_windows(rows: int, columns: int, side: int) -> None:
    # The smallest share is one window.
    pictures = plain(2, rows, columns)
    pictures[:, :TOKEN, :TOKEN] = 200
    assert int(chosen(pictures, 1e-9, side=4)[0].sum()) == side**2


def test_equal_scores() -> None:
    places = chosen(plain(2, 40, 40), 0.5)
    assert places[0].flatten().nonzero()[:, 0].tolist() == list(range(800))


def test_contrast_is_with_the_median() -> None:
    pictures = plain(2, 4, 4)
    # With the mean, which is 134, the darkest token would be farthest.
    pictures[:, : 2 * TOKEN, : 3 * TOKEN] = 200
    pictures[:, -TOKEN:, -TOKEN:] = 60
    assert chosen(pictures, 1 / 16)[0].nonzero().tolist() == [[0, 0]]


def test_shapes_of_the_world_are_encoded() -> None:
    found = []
    for seed in range(6):
        scene = make_scene(seed, split="validation")
        places = PatchPruner(0.5).places(*lay_out(render_images(scene), 14, 2, 2), 2)
        found.append(places[torch.from_numpy(truth(scene).video_class).view_as(places) > 0])
    assert float(torch.cat(found).float().mean()) > 0.9


@pytest.mark.parametrize("share", [0, -0.5, 1.5, True, "half", None, float("nan")])
def test_wrong_share(share: Any) -> None:
    with pytest.raises(BudgetError, match=r"in \(0, 1\], got"):
        PatchPruner(share)


@pytest.mark.parametrize("side", [0, 1.5, True, None])
def test_wrong_side(side: Any) -> None:
    with pytest.raises(UsageError, match="side is the number of tokens"):
        PatchPruner(0.5, side)


def test_wrong_patches() -> None:
    patches, grid = lay_out(plain(2, 4, 4), PATCH, 2, 2)
    with pytest.raises(UsageError, match=r"needs 128 patches of bytes, got 128 of torch.float32"):
        PatchPruner(0.5).places(patches.float(), grid, 2)
    with pytest.raises(UsageError, match=r"needs 128 patches of bytes, got 100 of torch.uint8"):
        PatchPruner(0.5).places(patches[:100], grid, 2)
    with pytest.raises(UsageError, match="needs 0 patches of bytes, got 0"):
        PatchPruner(0.5).places(patches[:0], [0, 8, 8], 2)
