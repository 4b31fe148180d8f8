"""GleanVID against a readable loop, frame by frame, and on small examples."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from tests.helpers.contract import BUDGETS, SPLIT, Watch, check_counts
from tests.helpers.oracle import NEAR, check_best, check_rounded, cosine, frames_of, shares, video_total
from tests.helpers.prompts import random_prompt, regular_prompt, steady_prompt

from omnisift.budget import Budget
from omnisift.chunks import build_stream
from omnisift.compressors.gleanvid import Bias, Cells, GleanVidCompressor, frame_weights, novelty, progressive
from omnisift.compressors.random import RandomCompressor
from omnisift.ops.frames import Frames
from omnisift.tokens import Modality, TokenStream

WIDTH = 12
"""As many dimensions as there are Lanczos steps, so that the dominant direction is exact."""


def grid_prompt(frames: int, rows: int, columns: int, seed: int = 0, shared: float = 1.0) -> TokenStream:
    """Frames of rows x columns tokens with a common part, and audio."""
    prompt = steady_prompt(frames, rows * columns, 5 * frames, seed=seed, width=WIDTH)
    position = prompt.temporal.repeat(3, 1)
    video = prompt.modality == Modality.VIDEO
    place = torch.arange(int(video.sum())) % (rows * columns)
    position[1, video], position[2, video] = place // columns, place % columns
    embeds = prompt.embeds + shared
    return build_stream(embeds, prompt.modality, position, prompt.sample, seconds_per_position=0.04)


def beyond(rows: np.ndarray, x: np.ndarray) -> float:
    """Length of what ``rows`` do not span of x, by the paper's formula with a ridge."""
    if not len(rows):
        return float(np.linalg.norm(x))
    gram = rows @ rows.T
    level = np.trace(gram) / len(rows)
    weight = np.linalg.solve(gram + 1e-4 * level * np.eye(len(rows)), rows @ x) if level else np.zeros(len(rows))
    return math.sqrt(max(0.0, float(x @ x - (rows @ x) @ weight)))


def unbiased(stream: TokenStream, frames: list[list[int]]) -> dict[int, np.ndarray]:
    """Tokens without the dominant direction of the clip."""
    tokens = [index for frame in frames for index in frame]
    x = stream.embeds[tokens].double().numpy()
    mean = x.mean(axis=0)
    direction = np.linalg.svd(x - mean)[2][0]
    clear = x - np.outer((x - mean) @ direction, direction)
    return dict(zip(tokens, clear, strict=True))


def cells_of(stream: TokenStream, frame: list[int]) -> dict[int, tuple[int, int]]:
    """The 2 x 2 cell of each token, counted from the corner of the frame."""
    rows, columns = ([int(stream.position[axis, i]) for i in frame] for axis in (1, 2))
    return {
        i: ((row - min(rows)) // 2, (column - min(columns)) // 2)
        for i, row, column in zip(frame, rows, columns, strict=True)
    }


def loop_novelty(stream: TokenStream, frames: list[list[int]]) -> list[float]:
    """R_t: the sum over a frame's tokens of what is new at their place."""
    clear, history, total = unbiased(stream, frames), list[dict[tuple[int, int], np.ndarray]](), []
    for frame in frames:
        cell = cells_of(stream, frame)
        means = {c: np.mean([clear[i] for i in frame if cell[i] == c], axis=0) for c in set(cell.values())}
        before = {c: [old[c] for old in history[-16:] if c in old] for c in means}
        new = {c: beyond(np.array(before[c]).reshape(-1, WIDTH), z) for c, z in means.items()}
        total.append(sum(new[cell[i]] for i in frame))
        history.append(means)
    return total


def loop_weights(amounts: list[float], sizes: list[int]) -> list[float]:
    ordered, count = sorted(amounts), len(amounts)
    gini = 2 * sum((i + 1) * r for i, r in enumerate(ordered)) / (count * sum(amounts)) - (count + 1) / count
    alpha = 0.6 - 0.4 * gini
    pairs = zip(amounts, sizes, strict=True)
    return [alpha * size / sum(sizes) + (1 - alpha) * amount / sum(amounts) for amount, size in pairs]


def scaled(values: list[float]) -> list[float]:
    span = max(0.01, max(values) - min(values))
    return [(value - min(values)) / span for value in values]


def loop_scores(stream: TokenStream, frames: list[list[int]], keep: torch.Tensor) -> list[list[float]]:
    """Scores of every frame, given what ``keep`` has of the frames before it."""
    clear, result = unbiased(stream, frames), []
    x = stream.embeds.double()
    rest = dict(clear)
    for number, frame in enumerate(frames):
        if number % 16 == 0:  # the basis begins anew
            rest = dict(clear)
        cell, mean = cells_of(stream, frame), x[frame].mean(dim=0)
        local, apart = [], []
        length = {i: float(np.linalg.norm(clear[i])) for i in frame}
        left = {i: float(np.linalg.norm(rest[i])) for i in frame}
        for i in frame:
            near = x[[j for j in frame if cell[j] == cell[i]]].mean(dim=0)
            local.append(math.log1p(math.exp(4 * (cosine(x[i], near) - cosine(x[i], mean)))) / 4)
            apart.append(max(0.0, left[i] - 0.01 * length[i]) / max(length.values()))
        result.append([u + v for u, v in zip(scaled(local), scaled(apart), strict=True)])
        rows = np.array([rest[i] for i in frame if keep[i] and left[i] > 0.01 * length[i]])
        if len(rows):
            gram = rows @ rows.T
            inverse = np.linalg.inv(gram + 1e-4 * np.trace(gram) / len(rows) * np.eye(len(rows)))
            rest = {i: y - rows.T @ (inverse @ (rows @ y)) for i, y in rest.items()}
    return result


def check_loop(stream: TokenStream, budget: Budget) -> None:
    result = GleanVidCompressor(budget)(stream)
    check_counts("gleanvid", stream, result.keep, budget)
    for frames in frames_of(stream):
        sizes = [len(frame) for frame in frames]
        weights = loop_weights(loop_novelty(stream, frames), sizes)
        counts = [int(result.keep[frame].sum()) for frame in frames]
        check_rounded(counts, shares(weights, sizes, video_total(stream, budget, frames)))
        for frame, scores, count in zip(frames, loop_scores(stream, frames, result.keep), counts, strict=True):
            # Projections are in float32, and scaling multiplies their rounding by up to 100: 0.004 on some processors.
            torch.testing.assert_close(result.scores[frame].tolist(), scores, atol=1e-2, rtol=0)
            check_best(result.keep, frame, [float(result.scores[i]) for i in frame], count)


@pytest.mark.parametrize("seed", range(30))
def test_equals_the_loop(seed: int):
    check_loop(random_prompt(seed, width=WIDTH).stream(), BUDGETS[seed % len(BUDGETS)])


@pytest.mark.parametrize(("frames", "rows", "columns"), [(4, 4, 4), (19, 3, 5), (35, 2, 2), (2, 1, 7)])
def test_equals_the_loop_on_grids(frames: int, rows: int, columns: int):
    for budget in (SPLIT, Budget(retain=0.2)):
        check_loop(grid_prompt(frames, rows, columns, seed=frames), budget)


def axes(*numbers: int) -> torch.Tensor:
    return torch.eye(WIDTH)[list(numbers)]


def test_what_is_spanned_gives_way_to_what_is_new():
    """The second frame repeats kept axes, even mixed, and brings two new ones; the third repeats what wasn't kept."""
    first = torch.cat([4 * axes(0, 1, 2), 2 * axes(3)])
    second = torch.stack([2 * (axes(0)[0] + axes(1)[0]), 3 * axes(4)[0], 3 * axes(5)[0], 4 * axes(1)[0]])
    third = torch.stack([axes(3)[0], axes(4)[0], 2 * axes(5)[0], axes(0)[0]])
    tokens, valid = torch.stack([first, second, third])[None], torch.ones(1, 3, 4, dtype=torch.bool)
    scores = progressive(tokens, torch.zeros(1, 3, 4), valid, torch.tensor([[3, 2, 1]]))
    wanted = torch.tensor([[1.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(scores[0], wanted, atol=1e-3, rtol=0)


def test_a_cut_gets_more_than_still_frames():
    """Ten frames, of which the sixth begins another scene."""
    stream = grid_prompt(10, 4, 4)
    frames = frames_of(stream)[0]
    embeds = stream.embeds.clone()
    for number, frame in enumerate(frames):
        embeds[frame] = embeds[frames[5 if number > 5 else 0]] if number not in (0, 5) else embeds[frame]
    keep = GleanVidCompressor(Budget(retain=0.25))(dataclasses.replace(stream, embeds=embeds)).keep
    kept = [int(keep[frame].sum()) for frame in frames]
    assert min(kept[0], kept[5]) > 2 * max(kept[1:5] + kept[6:])
    assert min(kept) >= 1


def test_novelty_is_a_distance_to_a_span():
    stream = grid_prompt(4, 2, 2)
    frames = Frames.of(stream)
    cells = Cells.of(stream, frames)
    assert cells.size.tolist() == [4] * 4
    assert cells.earlier[:4].tolist() == [[0, 1, 2, 3], [-1, 0, 1, 2], [-1, -1, 0, 1], [-1, -1, -1, 0]]
    places = torch.stack([3 * axes(0)[0], 2 * axes(1)[0], axes(0)[0] + axes(1)[0] + axes(2)[0], 5 * axes(3)[0]])
    torch.testing.assert_close(novelty(places, cells.earlier), torch.tensor([3.0, 2.0, 1.0, 5.0]), atol=1e-3, rtol=0)


def test_budgets_are_even_where_novelty_is():
    frames = Frames.of(grid_prompt(4, 2, 2))
    cell = torch.arange(4)
    assert frame_weights(torch.ones(4), cell, frames).tolist() == pytest.approx([0.25] * 4, abs=1e-6)
    # All novelty in one frame: a Gini coefficient of 3/4 leaves alpha at 0.3.
    weights = frame_weights(torch.tensor([0.0, 0.0, 1.0, 0.0]), cell, frames)
    assert weights.tolist() == pytest.approx([0.075, 0.075, 0.775, 0.075])


def test_the_shared_direction_is_removed():
    """The most common direction of a wide clip, found in few steps, and gone but for the mean."""
    prompt = steady_prompt(6, 16, 0, width=200)
    stream = prompt.stream()
    stream.embeds[:, 0] += 30 * torch.randn(len(stream), generator=torch.Generator().manual_seed(1))
    video = stream.modality == Modality.VIDEO
    bias = Bias.of(stream.embeds, Frames.of(stream))
    x = stream.embeds[video]
    wanted = torch.linalg.svd((x - x.mean(dim=0)).double()).Vh[0].float()
    assert abs(cosine(bias.direction[0], wanted)) > 1 - NEAR
    clear = bias.removed(x, torch.zeros(len(x), dtype=torch.int64))
    torch.testing.assert_close(clear.mean(dim=0), x.mean(dim=0), atol=1e-4, rtol=0)
    assert float(((clear - clear.mean(dim=0)) @ wanted).abs().max()) < 1e-3


def test_a_saturated_basis_leaves_no_noise():
    """Frames in a plane: after the first, nothing is new, and the local score alone decides, alike in any batch."""
    stream = grid_prompt(6, 4, 4, shared=0.0)
    embeds = torch.zeros_like(stream.embeds)
    embeds[:, :2] = stream.embeds[:, :2]
    result = GleanVidCompressor(Budget(retain=0.5))(dataclasses.replace(stream, embeds=embeds))
    assert result.scores is not None
    for frame in frames_of(stream)[0][1:]:
        assert float(result.scores[frame].max()) <= 1.0


def test_steps_do_not_grow_with_the_number_of_chunks():
    seen = []
    for seconds in (64, 320):
        with Watch() as watch, torch.no_grad():
            GleanVidCompressor(SPLIT)(regular_prompt(seconds).stream())
        seen.append(watch.steps)
    assert seen[0] == seen[1]


def test_labels():
    assert GleanVidCompressor(SPLIT).label == "gleanvid"
    assert GleanVidCompressor(SPLIT, RandomCompressor(SPLIT)).label == "gleanvid+random"
