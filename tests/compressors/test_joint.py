"""One pool over video and audio of a chunk, against a readable loop."""

from __future__ import annotations

import pytest
import torch
from tests.helpers.oracle import cosine, highest
from tests.helpers.prompts import random_prompt, regular_prompt

from omnisift.budget import Budget
from omnisift.chunks import ChunkShapes, segment_of
from omnisift.compressors.joint import JointCompressor
from omnisift.compressors.paired import Paired
from omnisift.compressors.uniform import UniformCompressor
from omnisift.tokens import Modality, TokenStream

BUDGETS = [Budget(retain=0.3), Budget(retain_video=0.1, retain_audio=0.6), Budget(retain_video=0.7, retain_audio=0.3)]


def distances(stream: TokenStream) -> dict[int, float]:
    """Place -> how unlike its surroundings a token of a chunk is."""
    segment, result = segment_of(stream), {}
    for number in range(3 * len(ChunkShapes.of(stream))):
        places = torch.nonzero(segment == number).flatten().tolist()
        first = torch.nonzero(segment == number - 1).flatten().tolist() if number % 3 == 1 else []
        for i, place in enumerate(places):
            same = len(first) == len(places)
            other = stream.embeds[first[i]] if same else stream.embeds[places].mean(dim=0)
            result[place] = 1 - cosine(stream.embeds[place], other)
    return result


def loop(stream: TokenStream, budget: Budget) -> torch.Tensor:
    """[L] bool."""
    unlike, shapes = distances(stream), ChunkShapes.of(stream)
    counts = budget.counts(shapes).by_segment().view(-1, 3).sum(dim=1).tolist()
    keep = stream.chunk < 0
    for chunk, total in enumerate(counts):
        z: dict[int, float] = {}
        for modality in (Modality.VIDEO, Modality.AUDIO):
            places = torch.nonzero((stream.chunk == chunk) & (stream.modality == modality)).flatten().tolist()
            values = torch.tensor([unlike[p] for p in places], dtype=torch.float64)
            if places:
                mean, deviation = float(values.mean()), float(values.std(correction=0))
                z |= {p: (unlike[p] - mean) / deviation if deviation > 1e-6 else 0.0 for p in places}
        order = sorted(z)
        # Of two tokens one is at -1 and one at 1 in either modality: ties, but for rounding.
        keep[[order[i] for i in highest([round(z[p], 6) for p in order], total)]] = True
    return keep


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("seed", range(40))
def test_equals_the_readable_loop(seed: int, budget: Budget):
    stream = random_prompt(seed).stream()
    assert torch.equal(JointCompressor(budget)(stream).keep, loop(stream, budget))


def totals(stream: TokenStream, keep: torch.Tensor) -> list[int]:
    inside = stream.chunk >= 0
    return torch.bincount(stream.chunk[keep & inside], minlength=len(ChunkShapes.of(stream))).tolist()


def test_the_split_is_free_and_the_total_is_not():
    stream = regular_prompt(20).stream()
    result = JointCompressor(BUDGETS[0])(stream)
    counts = BUDGETS[0].counts(ChunkShapes.of(stream))
    assert totals(stream, result.keep) == (counts.frame0 + counts.frame1 + counts.audio).tolist()
    kept_audio = torch.bincount(stream.chunk[result.keep & (stream.modality == Modality.AUDIO)], minlength=10)
    assert kept_audio.tolist() != counts.audio.tolist()
    assert result.embeds is None


def test_a_modality_without_variance_is_in_the_middle():
    """Equal audio: above the usual video, below the unusual; no scale lets it win or lose altogether."""
    prompt = regular_prompt(4)
    audio = prompt.modality == Modality.AUDIO
    prompt.embeds[audio] = 3.0
    stream = prompt.stream()
    scores = JointCompressor(BUDGETS[0])(stream).scores
    assert (scores[audio] == 0).all()
    assert scores[~audio].min() < 0 < scores[~audio].max()


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_constant_input_keeps_the_first(value: float):
    for seed in range(10):
        prompt = random_prompt(seed)
        prompt.embeds[:] = value
        stream = prompt.stream()
        result = JointCompressor(BUDGETS[0])(stream)
        assert (result.scores[stream.chunk >= 0] == 0).all()
        for chunk in range(len(ChunkShapes.of(stream))):
            stays = result.keep[stream.chunk == chunk].tolist()
            assert stays == sorted(stays, reverse=True)


def test_half_of_a_pair_keeps_its_own_counts():
    stream = regular_prompt(20).stream()
    counts, budget = BUDGETS[0].counts(ChunkShapes.of(stream)), BUDGETS[0]
    for pair in (
        Paired(JointCompressor(budget), UniformCompressor(budget)),
        Paired(UniformCompressor(budget), JointCompressor(budget)),
    ):
        keep = pair(stream).keep
        for modality, wanted in (
            (Modality.VIDEO, counts.frame0 + counts.frame1),
            (Modality.AUDIO, counts.audio),
        ):
            assert totals(stream, keep & (stream.modality == modality)) == wanted.tolist()
