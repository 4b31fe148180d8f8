"""OmniZip against a readable loop: audio by the clip, its anchors, the video's rates, and its two kinds of frames."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from tests.helpers.contract import Watch
from tests.helpers.oracle import cosine, highest, shared
from tests.helpers.prompts import random_prompt, regular_prompt, with_attention
from torch import Tensor

from omnisift.budget import Budget
from omnisift.chunks import ChunkShapes, segment_of
from omnisift.compressors.omnizip import OmniZipCompressor, chunk_totals
from omnisift.compressors.paired import Paired
from omnisift.compressors.uniform import UniformCompressor
from omnisift.errors import CompressorError
from omnisift.ops import similarity
from omnisift.tokens import Modality, Selection, TokenStream

BUDGETS = [
    Budget(retain_video=0.4, retain_audio=0.7),
    Budget(retain_video=0.5, retain_audio=0.2),
    Budget(retain_video=0.9, retain_audio=0.5),
]
SMALL = Budget(retain_video=0.1, retain_audio=0.4)


def loop(
    stream: TokenStream, budget: Budget, share: float = 0.05, members: int = 3, rebounded: bool = False
) -> tuple[Tensor, Tensor]:
    """[L] bool and [L, D]: what stays, and the embeddings with the anchors consolidated."""
    shapes, segment, embeds = ChunkShapes.of(stream), segment_of(stream), stream.embeds.clone()
    counts = budget.counts(shapes).by_segment().view(-1, 3).tolist()
    keep = segment < 0
    for clip in range(int(shapes.clip.max()) + 1 if len(shapes) else 0):
        chunks = torch.nonzero(shapes.clip == clip).flatten().tolist()
        audio = places(stream, clip, Modality.AUDIO)
        kept = loop_audio(stream, embeds, audio, sum(counts[c][2] for c in chunks), share, members)
        keep[kept] = True
        video = [counts[c][0] + counts[c][1] for c in chunks]
        sizes = [int(shapes.frame0[c] + shapes.frame1[c]) for c in chunks]
        if audio:
            heard = [(sum(int(stream.chunk[i]) == c for i in kept), int(shapes.audio[c])) for c in chunks]
            shares = [n / of if of else None for n, of in heard]
            video = loop_rates(video, sizes, shares, rebounded)
        for chunk, total in zip(chunks, video, strict=True):
            first, second = (torch.nonzero(segment == 3 * chunk + f).flatten().tolist() for f in (0, 1))
            count = math.floor(len(second) * total / (len(first) + len(second)))
            keep[[first[i] for i in highest(peaks(stream.embeds[first]), total - count)]] = True
            scores = [1 - cosine(stream.embeds[a], stream.embeds[b]) for a, b in zip(first, second, strict=False)]
            if len(first) != len(second):
                scores = peaks(stream.embeds[second])
            keep[[second[i] for i in highest(scores, count)]] = True
    return keep, embeds


def places(stream: TokenStream, clip: int, modality: Modality) -> list[int]:
    inside = (stream.clip == clip) & (stream.chunk >= 0) & (stream.modality == modality)
    return torch.nonzero(inside).flatten().tolist()


def loop_audio(
    stream: TokenStream, embeds: Tensor, audio: list[int], total: int, share: float, members: int
) -> list[int]:
    """PositionColumns that stay; writes the anchors into ``embeds``."""
    number = max(0, min(round(share * len(audio)), total - 1))
    attention = [float(stream.extras["audio_attention"][p]) for p in audio]
    dominant = [audio[i] for i in highest(attention, total - number)]
    rest = [p for p in audio if p not in dominant]
    chosen = [rest[-(-j * len(rest) // number)] for j in range(number)]
    crowd: dict[int, list[int]] = {a: [] for a in chosen}
    for place in rest:
        if chosen and place not in chosen:
            likeness = [cosine(stream.embeds[place], stream.embeds[a]) for a in chosen]
            crowd[chosen[highest(likeness, 1)[0]]].append(place)
    video = places(stream, int(stream.clip[audio[0]]), Modality.VIDEO) if audio else []
    for anchor, near in crowd.items():
        seen = [max(cosine(stream.embeds[p], stream.embeds[v]) for v in video) for p in near]
        best = highest(seen, members)
        if best:
            weight = torch.tensor([seen[i] for i in best]).softmax(dim=0)
            taken = sum(w * stream.embeds[near[i]] for w, i in zip(weight, best, strict=True))
            embeds[anchor] = (stream.embeds[anchor] + taken) / 2
    return dominant + chosen


def loop_rates(nominal: list[int], sizes: list[int], shares: list[float | None], rebounded: bool) -> list[int]:
    """Video tokens of each chunk."""
    total, rho = sum(nominal), 1 - sum(nominal) / sum(sizes)
    low, high = (rho * 0.35 / 0.6, 1 - (1 - rho) * 0.25 / 0.4) if rebounded else (0.35, 0.75)
    rates = [min(high, max(low, rho if r is None else high - (high - low) * r)) for r in shares]
    least = [math.floor(n * (1 - high) + 1e-9) for n in sizes]
    most = [math.ceil(n * (1 - low) - 1e-9) for n in sizes]
    if total > sum(most):
        return nominal
    pull = [n * (1 - rate) - floor for n, rate, floor in zip(sizes, rates, least, strict=True)]
    room = [m - n for m, n in zip(most, least, strict=True)]
    return [n + k for n, k in zip(least, shared(total - sum(least), pull, room), strict=True)]


def peaks(embeds: Tensor) -> list[float]:
    """Density times separation of the tokens of a frame."""
    n = len(embeds)
    d = [[max(0.0, 1 - cosine(embeds[i], embeds[j])) for j in range(n)] for i in range(n)]
    rho = []
    for i in range(n):
        near = sorted(d[i][j] for j in range(n) if j != i)[:5]
        rho.append(round(math.exp(-sum(near) / len(near)) if near else 1.0, 6))  # two tokens are equally dense
    result = []
    for i in range(n):
        denser = [d[i][j] for j in range(n) if (rho[j], -j) > (rho[i], -i)]
        result.append(round(rho[i] * (min(denser) if denser else max(d[i], default=0.0)), 6))
    return result


def merged(stream: TokenStream, result: Selection) -> Tensor:
    return stream.embeds[result.keep] if result.embeds is None else result.embeds


@pytest.mark.parametrize(("share", "members"), [(0.05, 3), (0.2, 1)])
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("seed", range(30))
def test_equals_the_readable_loop(seed: int, budget: Budget, share: float, members: int):
    stream = with_attention(random_prompt(seed).stream())
    result = OmniZipCompressor(budget, contextual=share, members=members)(stream)
    keep, embeds = loop(stream, budget, share, members)
    assert torch.equal(result.keep, keep)
    torch.testing.assert_close(merged(stream, result), embeds[keep], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("budget", [*BUDGETS, SMALL, Budget(retain=0.15)])
@pytest.mark.parametrize("seed", range(30))
def test_rebounded_equals_the_loop_at_every_budget(seed: int, budget: Budget):
    stream = with_attention(random_prompt(seed).stream())
    result = OmniZipCompressor(budget, rebounded=True)(stream)
    keep, embeds = loop(stream, budget, rebounded=True)
    assert torch.equal(result.keep, keep)
    torch.testing.assert_close(merged(stream, result), embeds[keep], atol=1e-5, rtol=1e-5)
    assert clip_totals(stream, keep) == nominal_totals(stream, budget)


def clip_totals(stream: TokenStream, keep: Tensor) -> list[tuple[int, int]]:
    """Kept video and audio of every clip."""
    stays = keep & (stream.chunk >= 0)
    kinds = (Modality.VIDEO, Modality.AUDIO)
    return [
        tuple(int((stays & (stream.clip == clip) & (stream.modality == kind)).sum()) for kind in kinds)
        for clip in range(int(stream.clip.max()) + 1)
    ]


def nominal_totals(stream: TokenStream, budget: Budget) -> list[tuple[int, int]]:
    shapes = ChunkShapes.of(stream)
    counts = budget.counts(shapes)
    return [
        (int((counts.frame0 + counts.frame1)[shapes.clip == clip].sum()), int(counts.audio[shapes.clip == clip].sum()))
        for clip in range(int(stream.clip.max()) + 1)
    ]


def test_equals_the_loop_on_regular_chunks_in_small_blocks(monkeypatch: pytest.MonkeyPatch):
    stream = with_attention(regular_prompt(12).stream())
    keep, embeds = loop(stream, BUDGETS[0])
    for cells in (1, 600, 1 << 24):
        monkeypatch.setattr(similarity, "MAX_ELEMENTS", cells)
        result = OmniZipCompressor(BUDGETS[0])(stream)
        assert torch.equal(result.keep, keep)
        torch.testing.assert_close(result.embeds, embeds[keep], atol=1e-5, rtol=1e-5)
    assert clip_totals(stream, result.keep) == nominal_totals(stream, BUDGETS[0])
    assert not torch.equal(result.embeds, stream.embeds[keep])


def test_matrices_stay_within_a_block(monkeypatch: pytest.MonkeyPatch):
    """Audio against the video of a whole clip: never all against all."""
    stream = with_attention(regular_prompt(80).stream())  # 2000 audio tokens and 960 patches
    monkeypatch.setattr(similarity, "MAX_ELEMENTS", 1 << 14)
    with Watch() as seen:
        OmniZipCompressor(BUDGETS[0])(stream)
    assert seen.largest <= stream.embeds.numel()


def test_more_audio_kept_means_more_video():
    """Chunks 0-4 keep all their audio, chunks 5-9 nothing: the first reach the upper bound of the video."""
    stream = with_attention(regular_prompt(20).stream())
    early = stream.modality == Modality.AUDIO
    early &= stream.chunk < 5
    extras = {**stream.extras, "audio_attention": stream.extras["audio_attention"] + 100 * early}
    budget = Budget(retain_video=0.45, retain_audio=0.5)
    result = OmniZipCompressor(budget, contextual=0)(dataclasses.replace(stream, extras=extras))
    kept = torch.bincount(stream.chunk[result.keep & (stream.modality == Modality.VIDEO)])
    # 120 of 240 video tokens; 24 a chunk: 6 at least, 16 at most.
    assert kept.tolist() == [16] * 5 + [8] * 5


def test_published_bounds_are_met_as_they_are_at_their_own_budget():
    """Two chunks with 3/4 and 1/4 of their audio kept drop .45 and .65 where that is the mean already."""
    shapes = ChunkShapes(*(torch.tensor([n, n]) for n in (100, 100, 40)), clip=torch.tensor([0, 0]))
    counts = Budget(retain_video=0.45, retain_audio=0.5).counts(shapes)
    result = chunk_totals(counts, shapes, torch.tensor([0.75, 0.25], dtype=torch.float64), rebounded=False)
    assert result.tolist() == [110, 70]  # keeps .55 and .35 of 200, whose mean is the budget's .45


def test_a_budget_below_the_floor_says_so():
    stream = with_attention(regular_prompt(8).stream())  # 4 chunks of 24 video tokens: 6 each at least
    with pytest.raises(CompressorError, match=r"can't keep 16 of 96 video tokens.*at least 24; .*rebounded=true"):
        OmniZipCompressor(SMALL)(stream)
    assert clip_totals(stream, OmniZipCompressor(SMALL, rebounded=True)(stream).keep) == [(16, 80)]
    edge = OmniZipCompressor(Budget(retain_video=0.25, retain_audio=0.4))(stream)
    assert torch.bincount(stream.chunk[edge.keep & (stream.modality == Modality.VIDEO)]).tolist() == [6] * 4


def test_above_the_bounds_every_chunk_keeps_the_budgets_count():
    stream = with_attention(regular_prompt(20).stream())
    keep = OmniZipCompressor(BUDGETS[2])(stream).keep
    wanted = BUDGETS[2].counts(ChunkShapes.of(stream))
    kept = torch.bincount(stream.chunk[keep & (stream.modality == Modality.VIDEO)])
    assert kept.tolist() == (wanted.frame0 + wanted.frame1).tolist()


def test_without_audio_any_budget_is_the_budgets_own():
    prompt = regular_prompt(8)
    silent = prompt.modality != Modality.AUDIO
    parts = (prompt.embeds[silent], prompt.modality[silent], prompt.temporal[silent], prompt.sample[silent])
    stream = with_attention(type(prompt)(*parts).stream())
    result = OmniZipCompressor(SMALL)(stream)
    assert torch.bincount(segment_of(stream)[result.keep]).tolist() == [2, 2, 0, 2, 2, 0, 2, 2, 0, 2, 2]
    assert result.embeds is None


def test_halves_of_pairs():
    """The same audio in a pair as alone, and the same video; the audio's half fears no small video."""
    stream = with_attention(regular_prompt(8).stream())
    audio = stream.modality == Modality.AUDIO
    complete, uniform = OmniZipCompressor(BUDGETS[0])(stream), UniformCompressor(BUDGETS[0])
    heard = Paired(uniform, OmniZipCompressor(BUDGETS[0]))(stream)
    assert torch.equal(heard.keep[audio], complete.keep[audio])
    assert torch.equal(merged(stream, heard)[audio[heard.keep]], merged(stream, complete)[audio[complete.keep]])
    seen = Paired(OmniZipCompressor(BUDGETS[0]), uniform)(stream)
    assert torch.equal(seen.keep[~audio], complete.keep[~audio])
    assert Paired(UniformCompressor(SMALL), OmniZipCompressor(SMALL))(stream).keep.sum() == 16 + 80


def test_options():
    budget = BUDGETS[0]
    assert OmniZipCompressor(budget).label == "omnizip"
    assert OmniZipCompressor(budget, rebounded=True).label == "omnizip-rebounded"
    assert OmniZipCompressor(budget, contextual=0.1, members=15).label == "omnizip-c0.1-g15"
    for option, wrong in (("rebounded", "yes"), ("contextual", 1.0), ("members", -1), ("members", 2.5)):
        with pytest.raises(CompressorError, match=f"{option} of 'omnizip'"):
            OmniZipCompressor(budget, **{option: wrong})  # type: ignore[arg-type]
    with pytest.raises(CompressorError, match="audio_attention"):
        OmniZipCompressor(budget)(random_prompt(1).stream())
