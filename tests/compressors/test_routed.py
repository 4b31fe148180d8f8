"""A budget that flows between video and audio, against a readable loop; the rule for its integers by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from tests.compressors.test_joint import distances
from tests.helpers.oracle import highest, shared
from tests.helpers.prompts import random_prompt, regular_prompt

from omnisift.budget import Budget, Counts
from omnisift.chunks import ChunkShapes, segment_of
from omnisift.compressors.paired import Paired
from omnisift.compressors.routed import RoutedCompressor, routed_counts
from omnisift.compressors.uniform import UniformCompressor
from omnisift.errors import CompressorError
from omnisift.tokens import Modality, TokenStream

BUDGETS = [Budget(retain=0.3), Budget(retain_video=0.1, retain_audio=0.6), Budget(retain_video=0.7, retain_audio=0.3)]


def loop(stream: TokenStream, budget: Budget, scope: str, swing: float) -> torch.Tensor:
    """[L] bool: parts are (chunk, modality); every part is guaranteed some of its count and competes for the rest."""
    unlike, shapes = distances(stream), ChunkShapes.of(stream)
    segment = segment_of(stream)
    counts = budget.counts(shapes).by_segment().view(-1, 3).tolist()
    sizes = torch.stack([shapes.frame0, shapes.frame1, shapes.audio], dim=1).tolist()
    keep = segment < 0
    for clip in range(int(shapes.clip.max()) + 1 if len(shapes) else 0):
        chunks = torch.nonzero(shapes.clip == clip).flatten().tolist()
        parts = [(chunk, audio) for chunk in chunks for audio in (False, True)]
        pools = [[(chunk, False), (chunk, True)] for chunk in chunks] if scope == "chunk" else [parts]
        informative = {p: mean([unlike[i] for i in part_places(stream, *p)]) for p in parts}
        for audio in (False, True):
            usual = mean([unlike[i] for c in chunks for i in part_places(stream, c, audio)])
            for chunk in chunks:
                informative[chunk, audio] = informative[chunk, audio] / usual if usual > 1e-6 else 1.0
        for pool in pools:
            nominal = [counts[c][2] if audio else counts[c][0] + counts[c][1] for c, audio in pool]
            size = [sizes[c][2] if audio else sizes[c][0] + sizes[c][1] for c, audio in pool]
            kept = share_out(nominal, size, [informative[p] for p in pool], swing)
            for (chunk, audio), total in zip(pool, kept, strict=True):
                pieces = {3 * chunk + 2: total} if audio else halves(chunk, total, counts[chunk], sizes[chunk])
                for number, count in pieces.items():
                    places = torch.nonzero(segment == number).flatten().tolist()
                    keep[[places[i] for i in highest([unlike[p] for p in places], count)]] = True
    return keep


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def part_places(stream: TokenStream, chunk: int, audio: bool) -> list[int]:
    which = stream.modality == (Modality.AUDIO if audio else Modality.VIDEO)
    return torch.nonzero((stream.chunk == chunk) & which).flatten().tolist()


def halves(chunk: int, total: int, count: list[int], size: list[int]) -> dict[int, int]:
    second = min(total * count[1] // max(1, count[0] + count[1]), size[1])
    first = min(total - second, size[0])
    return {3 * chunk: first, 3 * chunk + 1: total - first}


def share_out(nominal: list[int], size: list[int], informative: list[float], swing: float) -> list[int]:
    """The safe part of every count, and the rest by count times informativeness, as far as there is room."""
    exact = Fraction(swing).limit_denominator(1000)
    low = [math.ceil(n * (1 - exact)) for n in nominal]
    room = [min(math.floor(n * (1 + exact)), s) - least for n, s, least in zip(nominal, size, low, strict=True)]
    pull = [n * i for n, i in zip(nominal, informative, strict=True)]
    total = sum(nominal) - sum(low)
    complete = shared(total, pull, room)
    return [least + w for least, w in zip(low, complete, strict=True)]


@pytest.mark.parametrize("scope", ["chunk", "clip"])
@pytest.mark.parametrize("swing", [0.5, 0.2, 1.0])
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("seed", range(20))
def test_equals_the_readable_loop(seed: int, budget: Budget, swing: float, scope: str):
    stream = random_prompt(seed).stream()
    result = RoutedCompressor(budget, scope=scope, swing=swing)(stream)
    assert torch.equal(result.keep, loop(stream, budget, scope, swing))


def kept_by(stream: TokenStream, keep: torch.Tensor) -> torch.Tensor:
    """[C, 2] int64: video and audio kept of each chunk."""
    audio = (stream.modality == Modality.AUDIO).long()
    inside = keep & (stream.chunk >= 0)
    chunks = len(ChunkShapes.of(stream))
    return torch.bincount((2 * stream.chunk + audio)[inside], minlength=2 * chunks).view(chunks, 2)


def lively_prompt():
    """Chunks whose audio is flat in the first half of the clip and whose video is flat in the second."""
    prompt = regular_prompt(20)
    stream = prompt.stream()
    audio, early = stream.modality == Modality.AUDIO, stream.chunk < 5
    prompt.embeds[(audio & early) | (~audio & ~early)] *= 0.05
    prompt.embeds[:] += 1.0
    return prompt


@pytest.mark.parametrize("scope", ["chunk", "clip"])
def test_who_says_more_gets_more_and_the_total_stays(scope: str):
    stream = lively_prompt().stream()
    shapes = ChunkShapes.of(stream)
    counts = BUDGETS[0].counts(shapes)
    nominal = torch.stack([counts.frame0 + counts.frame1, counts.audio], dim=1)
    kept = kept_by(stream, RoutedCompressor(BUDGETS[0], scope=scope)(stream).keep)
    assert (kept[:5, 0] > nominal[:5, 0]).all()
    assert (kept[5:, 0] < nominal[5:, 0]).all()
    assert kept.sum() == nominal.sum()
    assert (kept >= torch.ceil(nominal * 0.5)).all()
    assert (kept <= torch.floor(nominal * 1.5)).all()
    if scope == "chunk":
        assert kept.sum(dim=1).tolist() == nominal.sum(dim=1).tolist()


def test_integers_by_hand():
    """10 and 20 of 40 each, swing .5: 5 and 10 are safe, 15 are shared by weight, up to 15 and 30."""
    one = torch.tensor([40])
    shapes = ChunkShapes(frame0=one // 2, frame1=one // 2, audio=one, clip=torch.tensor([0]))
    counts = Counts(frame0=torch.tensor([5]), frame1=torch.tensor([5]), audio=torch.tensor([20]))
    for informative, wanted in (
        ([1.0, 1.0], [5, 5, 20]),
        ([1.2, 0.8], [6, 5, 19]),  # 15 * 12 / 28 = 6.43
        ([9.0, 0.1], [8, 7, 15]),  # more than there is room for
        ([0.0, 1.0], [3, 2, 25]),
        ([0.0, 0.0], [5, 5, 20]),
    ):
        result = routed_counts(counts, shapes, torch.tensor([informative], dtype=torch.float64), "chunk", 0.5)
        assert result.by_segment().tolist() == wanted


@pytest.mark.parametrize("scope", ["chunk", "clip"])
@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_constant_input_keeps_the_nominal_counts(value: float, scope: str):
    for seed in range(10):
        prompt = random_prompt(seed)
        prompt.embeds[:] = value
        stream = prompt.stream()
        result = RoutedCompressor(BUDGETS[0], scope=scope)(stream)
        counts = BUDGETS[0].counts(ChunkShapes.of(stream))
        nominal = torch.stack([counts.frame0 + counts.frame1, counts.audio], dim=1)
        kept = kept_by(stream, result.keep)
        assert kept.sum() == nominal.sum()
        assert not result.scores[stream.chunk >= 0].isnan().any()
        assert ((kept - nominal).abs() <= 1).all()


@pytest.mark.parametrize("scope", ["chunk", "clip"])
def test_no_swing_is_the_budget(scope: str):
    stream = lively_prompt().stream()
    counts = BUDGETS[0].counts(ChunkShapes.of(stream))
    keep = RoutedCompressor(BUDGETS[0], scope=scope, swing=0)(stream).keep
    segment = segment_of(stream)
    assert torch.bincount(segment[keep]).tolist() == counts.by_segment().tolist()


def test_half_of_a_pair_keeps_the_nominal_counts():
    stream, budget = lively_prompt().stream(), BUDGETS[0]
    wanted = budget.counts(ChunkShapes.of(stream)).by_segment().tolist()
    routed, uniform = RoutedCompressor(budget), UniformCompressor(budget)
    for pair in (Paired(routed, uniform), Paired(uniform, routed)):
        assert torch.bincount(segment_of(stream)[pair(stream).keep]).tolist() == wanted


def test_options():
    budget = BUDGETS[0]
    assert RoutedCompressor(budget).label == "routed"
    assert RoutedCompressor(budget, scope="clip", swing=0.25).label == "routed-clip-swing0.25"
    with pytest.raises(CompressorError, match="scope of 'routed' is chunk or clip, got 'frame'"):
        RoutedCompressor(budget, scope="frame")
    for wrong in (-0.1, 1.5, True, "a"):
        with pytest.raises(CompressorError, match="swing of 'routed'"):
            RoutedCompressor(budget, swing=wrong)  # type: ignore[arg-type]
