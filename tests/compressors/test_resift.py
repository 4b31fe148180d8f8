"""ReSift against a readable loop, and what its options promise."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from tests.helpers.contract import BUDGETS, SPLIT, check_counts
from tests.helpers.prompts import audio_prompt, in_one_batch, random_prompt, steady_prompt

from omnisift.budget import Budget
from omnisift.chunks import build_stream, segment_of
from omnisift.compressors.resift import ReSiftCompressor, newness, standing_out
from omnisift.errors import CompressorError
from omnisift.ops.coverage import merged, sketch
from omnisift.tokens import Modality, TokenStream

DECAY, SPAN = 0.5, 8


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.dot(a, b) / max(1e-8, float(a.norm() * b.norm())))


def segments(stream: TokenStream) -> dict[int, list[int]]:
    """Frames and chunks' audio by number: their tokens."""
    found: dict[int, list[int]] = {}
    for place, number in enumerate(segment_of(stream).tolist()):
        if number >= 0:
            found.setdefault(number, []).append(place)
    return found


def weights_by_loop(stream: TokenStream, causal: bool) -> list[float]:
    """Weight of every token, slowly."""
    found, x = segments(stream), stream.embeds
    frames = sorted(number for number, places in found.items() if number % 3 < 2)
    clip_of = {number: int(stream.clip[places[0]]) for number, places in found.items()}
    weight = [0.0] * len(stream)
    for number in frames:
        own = [other for other in frames if clip_of[other] == clip_of[number]]
        rank = own.index(number)
        if causal:
            span = own[max(0, rank - SPAN + 1) : rank + 1]
            span = [other for other in span if len(found[other]) == len(found[number])]
        else:
            span = own[rank // SPAN * SPAN : rank // SPAN * SPAN + SPAN]
        mean = x[found[number]].mean(dim=0)
        for column, place in enumerate(found[number]):
            usual = torch.stack([x[found[other][column]] for other in span if column < len(found[other])]).mean(dim=0)
            weight[place] = max(0.0, 1 - 0.5 * (cosine(x[place], mean) + cosine(x[place], usual)))
    most = {number: max(weight[place] for place in found[number]) for number in frames}
    for number in frames:
        norms = [float(x[place].norm()) for place in found[number]]
        for place, norm in zip(found[number], norms, strict=True):
            weight[place] *= 1 + (norm - min(norms)) / (max(norms) - min(norms) + 1e-6)
    unlike = {
        place: max(0.0, 1 - cosine(x[place], x[places].mean(dim=0)))
        for number, places in found.items()
        if number % 3 == 2
        for place in places
    }
    for place, value in unlike.items():
        chunk, clip = int(stream.chunk[place]), int(stream.clip[place])
        beside = [v for p, v in unlike.items() if stream.chunk[p] == chunk]
        stands = 0.0
        begun = [
            n for n in frames if clip_of[n] == clip and stream.position[0][found[n][0]] <= stream.position[0][place]
        ]
        if begun or any(clip_of[n] == clip for n in frames):
            at = begun[-1] if begun else next(n for n in frames if clip_of[n] == clip)
            known = [most[n] for n in frames if clip_of[n] == clip and (not causal or n <= at)]
            stands = (most[at] - min(known)) / max(1e-3, *known)
        weight[place] = (1 + value / max(1e-3, *beside)) * (1 + stands)
    return weight


def choice_by_loop(stream: TokenStream, keep: torch.Tensor, weight: list[float]) -> set[int]:
    """The tokens that the greedy rule takes, at the counts of ``keep``."""
    chosen: set[int] = set()
    for number, places in segments(stream).items():
        count, taken = int(keep[places].sum()), list[int]()
        while len(taken) < count:
            best, best_value = -1, -1.0
            for place in (place for place in places if place not in taken):
                gaps = [1.0]
                for other in taken:
                    like = cosine(stream.embeds[place], stream.embeds[other])
                    if number % 3 == 2:
                        like *= math.exp(-abs(float(stream.time[place] - stream.time[other])) / DECAY)
                    gaps.append(max(0.0, 1 - like))
                value = weight[place] * min(gaps)
                if value > best_value * (1 + 1e-5):
                    best, best_value = place, value
            taken.append(best)
        chosen |= set(taken)
    return chosen


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("seed", range(25))
def test_equals_the_loop(seed: int, causal: bool) -> None:
    stream = random_prompt(seed).stream()
    budget = BUDGETS[seed % len(BUDGETS)]
    result = ReSiftCompressor(budget, causal=causal)(stream)
    check_counts("resift", stream, result.keep, budget)
    weight = weights_by_loop(stream, causal)
    inside = stream.chunk >= 0
    assert result.scores is not None
    assert torch.allclose(result.scores[inside], torch.tensor(weight)[inside], atol=1e-4)
    kept = {place for place in torch.nonzero(inside)[:, 0].tolist() if result.keep[place]}
    assert kept == choice_by_loop(stream, result.keep, weight)


@pytest.mark.parametrize("seed", range(10))
def test_merged_tokens_are_weighted_means(seed: int) -> None:
    stream = random_prompt(seed, plain=False).stream()
    result = ReSiftCompressor(SPLIT)(stream)
    assert result.embeds is not None
    rows = dict(zip(torch.nonzero(result.keep)[:, 0].tolist(), result.embeds, strict=True))
    for number, places in segments(stream).items():
        pairs = [cosine(stream.embeds[i], stream.embeds[j]) for i in places for j in places]
        usual = sum(pairs) / len(pairs)
        kept = [place for place in places if result.keep[place]]
        total = {place: stream.embeds[place].clone() for place in kept}
        size = dict.fromkeys(kept, 1.0)
        for place in (place for place in places if place not in kept):
            likeness = []
            for other in kept:
                excess = (cosine(stream.embeds[place], stream.embeds[other]) - usual) / max(1e-6, 1 - usual)
                fades = number % 3 == 2
                time = abs(float(stream.time[place] - stream.time[other]))
                likeness.append(excess * (math.exp(-time / DECAY) if fades else 1.0))
            if likeness and max(likeness) > 0:
                into = kept[likeness.index(max(likeness))]
                total[into] += max(likeness) * stream.embeds[place]
                size[into] += max(likeness)
        for place in kept:
            assert torch.allclose(rows[place], total[place] / size[place], atol=1e-4)


def test_the_layout_of_memory_changes_no_bit_of_merged_tokens() -> None:
    stream = random_prompt(3, plain=False).stream()
    turned = dataclasses.replace(stream, embeds=stream.embeds.t().contiguous().t())
    keep = ReSiftCompressor(SPLIT)(stream).keep
    target = torch.nonzero(keep)[:, 0][(keep.cumsum(0) - 1).clamp(min=0)]
    weight = torch.linspace(0.1, 0.9, len(keep))
    assert merged(turned.embeds, keep, target, weight).equal(merged(stream.embeds, keep, target, weight))


def test_text_and_what_is_kept_whole_stay_bit_for_bit() -> None:
    stream = random_prompt(5).stream()
    result = ReSiftCompressor(Budget(retain=1.0))(stream)
    assert result.embeds is not None
    assert result.embeds.equal(stream.embeds)
    unmerged = ReSiftCompressor(SPLIT, merge=False)(stream)
    assert unmerged.embeds is None
    assert unmerged.keep.equal(ReSiftCompressor(SPLIT)(stream).keep)


def test_causal_decisions_do_not_change_when_the_clip_goes_on() -> None:
    """Of every chunk, what is kept depends on it and on earlier ones; without the option it does not."""
    whole = steady_prompt(12, 9, 300)
    cut = 12 * 9 // 2 + 150

    def kept(length: int | None, causal: bool) -> torch.Tensor:
        # Tokens of the first six frames and six seconds, in the order of time.
        first = torch.nonzero((whole.modality != Modality.TEXT) & (whole.temporal < 150 + whole.temporal.min() + 1))[
            :, 0
        ]
        chosen = torch.arange(len(whole.modality)) if length is None else first
        stream = build_stream(
            whole.embeds[chosen],
            whole.modality[chosen],
            whole.temporal[chosen].expand(3, -1),
            whole.sample[chosen],
            0.04,
        )
        keep = ReSiftCompressor(SPLIT, causal=causal)(stream).keep
        return keep[first] if length is None else keep

    assert kept(None, True).equal(kept(cut, True))
    assert not kept(None, False).equal(kept(cut, False))


def test_the_second_of_two_equal_sounds_is_another_event() -> None:
    """Likeness fades with time: of two beeps of one sound a second apart both are kept, of two in a row one."""
    for apart, both in ((25, True), (1, False)):
        prompt = steady_prompt(2, 4, 50)
        audio = torch.nonzero(prompt.modality == Modality.AUDIO)[:, 0]
        prompt.embeds[audio] = torch.ones(16) + 0.01 * torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
        beep = torch.zeros(16)
        beep[0] = 3.0
        prompt.embeds[audio[5]] = prompt.embeds[audio[5 + apart]] = beep
        keep = ReSiftCompressor(Budget(retain_video=0.5, retain_audio=0.04))(prompt.stream()).keep
        assert bool(keep[audio[5]] & keep[audio[5 + apart]]) == both


def test_a_sketch_keeps_distances() -> None:
    tokens = torch.randn(64, 2048, generator=torch.Generator().manual_seed(0))
    short = sketch(tokens)
    assert short.shape == (64, 128)
    ratio = torch.pdist(short).square() / torch.pdist(tokens).square()
    assert abs(float(ratio.mean()) - 1) < 0.05
    assert float(ratio.std()) < 0.2
    assert sketch(tokens[:, :100]).equal(tokens[:, :100])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_of_equal_norms_has_no_weight(dtype: torch.dtype) -> None:
    """Tokens of one length, wider than a sketch: neither rounding nor the sketch makes some stronger than others."""
    stream = steady_prompt(frames=4, tokens=12, audio=20, width=512).stream()
    unit = torch.nn.functional.normalize(stream.embeds, dim=1)
    stream = dataclasses.replace(stream, embeds=unit.to(dtype))
    scores, video = ReSiftCompressor(SPLIT)(stream).scores, stream.modality == Modality.VIDEO
    new = newness(dataclasses.replace(stream, embeds=sketch(stream.embeds)))
    assert scores is not None
    assert float((scores / new)[video].max()) < 1 + (1e-3 if dtype is torch.float32 else 0.2)


def test_weights_of_other_tokens_are_zero() -> None:
    stream = random_prompt(3).stream()
    new = newness(stream)
    assert (new[stream.frame < 0] == 0).all()
    stands = standing_out(stream, new)
    assert (stands[(stream.modality != Modality.AUDIO) | (stream.chunk < 0)] == 0).all()
    assert bool(((stands >= 0) & (stands <= 1)).all())


def test_plain_audio_takes_no_weight_from_another_clip() -> None:
    """Of a batch, audio alone has the scores that it has without the video before it."""
    for seed in range(5):
        video, audio = steady_prompt(4, 4, 50, seed), audio_prompt(60, seed=seed)
        both = in_one_batch([video, audio])
        batch = ReSiftCompressor(SPLIT)(both.stream(compress_audio=True)).scores
        alone = ReSiftCompressor(SPLIT)(audio.stream(compress_audio=True)).scores
        assert batch is not None
        assert alone is not None
        assert torch.nan_to_num(batch[both.sample == 1]).equal(torch.nan_to_num(alone))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_merged_into_nothing(value: float) -> None:
    """Tokens of another row of the batch are merged as before, and means stay finite."""
    first, second = steady_prompt(4, 12, 20, seed=1), steady_prompt(4, 12, 20, seed=2)
    spoilt = dataclasses.replace(first, embeds=first.embeds.clone())
    spoilt.embeds[(spoilt.modality != 0).nonzero()[::5]] = value
    both = in_one_batch([spoilt, second])
    result, alone = ReSiftCompressor(SPLIT)(both.stream()), ReSiftCompressor(SPLIT)(second.stream())
    assert result.embeds is not None
    assert torch.equal(result.embeds[both.sample[result.keep] == 1], alone.embeds)
    changed = ~result.embeds.isfinite().all(dim=1)
    assert torch.equal(changed, ~both.embeds[result.keep].isfinite().all(dim=1))


@pytest.mark.parametrize("options", [{"guide": math.inf}, {"guide": 1e300}, {"decay": math.inf}, {"guide": math.nan}])
def test_numbers_that_make_no_weights_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(CompressorError, match=r"of 'resift' is a number in \[0, "):
        ReSiftCompressor(0.5, **options)


def test_labels_name_what_is_not_the_default() -> None:
    assert ReSiftCompressor(0.5).label == "resift"
    assert ReSiftCompressor(0.5, merge=False, causal=True, guide=0).label == "resift-unmerged-causal-guide=0"
