"""OmniPack-I against a readable loop."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from tests.helpers.contract import BUDGETS, SPLIT, Watch, check_counts
from tests.helpers.oracle import audio_of, frames_of, windows_of
from tests.helpers.oracle import rounded_cosine as cosine
from tests.helpers.prompts import random_prompt, regular_prompt, steady_prompt, with_attention

from omnisift.budget import Budget
from omnisift.chunks import build_stream
from omnisift.compressors.omnipack import OmniPackCompressor, choose
from omnisift.errors import CompressorError
from omnisift.tokens import Modality, TokenStream

ETA = {Modality.VIDEO: 0.25, Modality.AUDIO: 0.35}
FAR = {Modality.VIDEO: 0.10, Modality.AUDIO: 0.05}
BETA = {Modality.VIDEO: 0.62, Modality.AUDIO: 0.65}


def scaled(values: list[float]) -> list[float]:
    low, high = min(values, default=0), max(values, default=0)
    return [(value - low) / (high - low + 1e-6) for value in values]


def distance(x: torch.Tensor, y: torch.Tensor) -> float:
    return 1 - cosine(x, y)


def signals(stream: TokenStream) -> tuple[dict[int, float], dict[int, float]]:
    """(evidence or change, curvature) of every token that may be dropped."""
    x = stream.embeds
    event, turn = {}, {}
    for frames in frames_of(stream):
        for number, frame in enumerate(frames):
            mean = x[frame].mean(dim=0)
            near = [frames[i] if 0 <= i < len(frames) else [] for i in (number - 1, number + 1)]
            near = [other if len(other) == len(frame) else [] for other in near]
            for p, i in enumerate(frame):
                before, after = (other[p] if other else None for other in near)
                changes = [distance(x[i], x[j]) for j in (before, after) if j is not None]
                event[i] = max([*changes, distance(x[i], mean)])
                both = before is not None and after is not None
                turn[i] = distance(x[i] - x[before], x[after] - x[i]) if both else 0.0
    for audio in audio_of(stream):
        for p, i in enumerate(audio):
            near = audio[max(0, p - 1) : p] + audio[p + 1 : p + 2]
            event[i], turn[i] = max([distance(x[i], x[j]) for j in near], default=0.0), 0.0
    return event, turn


def salience_of(
    stream: TokenStream, window: tuple[Modality, list[int], int], event: dict[int, float], turn: dict[int, float]
) -> dict[int, float]:
    modality, places, kept = window
    score = scaled([event[i] for i in places])
    if modality is Modality.VIDEO:
        score = [a + 0.35 * b for a, b in zip(score, scaled([turn[i] for i in places]), strict=True)]
    if stream.extras and modality is Modality.VIDEO:
        weight = 0.35 * (0.35 + 0.65 * min(1.0, max(0.0, (kept / len(places) - 0.14) / 0.28)))
        attention = scaled(stream.extras["video_attention"][places].tolist())
        score = [a * (1 + weight * b) for a, b in zip(attention, scaled(score), strict=True)]
    elif stream.extras:
        attention = scaled(stream.extras["audio_attention_window"][places].tolist())
        score = [a + 0.25 * b for a, b in zip(attention, score, strict=True)]
    return dict(zip(places, score, strict=True))


def spots(stream: TokenStream, modality: Modality, places: list[int]) -> dict[int, list[float]]:
    axes = stream.position[:, places].double()[: 3 if modality is Modality.VIDEO else 1]
    low, high = axes.amin(dim=1, keepdim=True), axes.amax(dim=1, keepdim=True)
    return dict(zip(places, ((axes - low) / (high - low).clamp(min=1)).T.tolist(), strict=True))


def loop(
    stream: TokenStream, window: tuple[Modality, list[int], int], event: dict[int, float], turn: dict[int, float]
) -> dict[int, torch.Tensor]:
    """Place -> merged embedding of the kept tokens of one window."""
    modality, places, kept = window
    x, score = stream.embeds, salience_of(stream, window, event, turn)
    spot = spots(stream, modality, places)
    like = cache(lambda i, j: cosine(x[i], x[j]))
    first = min(kept, max(1, round(ETA[modality] * kept)))
    chosen = sorted(places, key=lambda i: (-round(score[i], 6), i))[:first]
    rest = [i for i in places if i not in chosen]
    far = {i: dict(zip(rest, scaled([math.dist(spot[i], spot[j]) for j in rest]), strict=True)) for i in rest}
    apart = {i: {j: 1 - like(i, j) + 0.2 * far[i][j] for j in rest if j != i} for i in rest}
    bonus = dict(zip(rest, scaled([score[i] for i in rest]), strict=True))
    crowd = {}
    for i in rest:
        near = sorted(apart[i].values())[:7]
        crowd[i] = math.exp(-sum(d * d for d in near) / max(1, len(near))) * (1 + 0.35 * bonus[i])
    rank = {}
    for i in rest:
        denser = [apart[i][j] for j in rest if (-round(crowd[j], 6), j) < (-round(crowd[i], 6), i)]
        rank[i] = crowd[i] * (min(denser) if denser else max(apart[i].values(), default=0.0))
    chosen += sorted(rest, key=lambda i: (-round(rank[i], 6), i))[: kept - first]
    chosen.sort()
    return merged(stream, modality, places, chosen, score, spot)


def merged(
    stream: TokenStream,
    modality: Modality,
    places: list[int],
    chosen: list[int],
    score: dict[int, float],
    spot: dict[int, list[float]],
) -> dict[int, torch.Tensor]:
    x = stream.embeds
    dropped = [i for i in places if i not in chosen]
    weight = dict(zip(dropped, [0.5 + 0.5 * w for w in scaled([score[i] for i in dropped])], strict=True))
    worth = scaled([score[i] for i in chosen])
    cluster: dict[int, list[int]] = {i: [] for i in chosen}
    for i in dropped if chosen else []:
        far = scaled([math.dist(spot[i], spot[j]) for j in chosen])
        pull = [cosine(x[i], x[j]) - FAR[modality] * f + 0.1 * w for j, f, w in zip(chosen, far, worth, strict=True)]
        cluster[chosen[max(range(len(chosen)), key=lambda c: (round(pull[c], 6), -c))]].append(i)
    beta, result = BETA[modality], {}
    for i, members in cluster.items():
        total = x[i] + sum((weight[j] * x[j] for j in members), torch.zeros_like(x[i]))
        mean = total / (1 + sum(weight[j] for j in members))
        result[i] = beta * x[i] + (1 - beta) * mean
    return result


def grid_prompt(seed: int, frames: int = 37) -> TokenStream:
    """Three windows of frames of 2 x 3 tokens with proper heights and widths, and audio."""
    prompt = steady_prompt(frames, 6, 2 * frames, seed=seed)
    position = prompt.temporal.repeat(3, 1)
    video = prompt.modality == Modality.VIDEO
    place = torch.arange(int(video.sum())) % 6
    position[1, video], position[2, video] = place // 3, place % 3
    return build_stream(prompt.embeds, prompt.modality, position, prompt.sample, seconds_per_position=0.04)


def check_loop(stream: TokenStream, budget: Budget, attention: bool) -> None:
    stream = with_attention(stream) if attention else stream
    result = OmniPackCompressor(budget, attention=attention)(stream)
    check_counts("omnipack", stream, result.keep, budget)
    wanted = stream.embeds.clone()
    event, turn = signals(stream)
    for window in windows_of(stream, budget, chunks=8):
        kept = loop(stream, window, event, turn)
        assert {place for place in window[1] if result.keep[place]} == set(kept)
        for place, embed in kept.items():
            wanted[place] = embed
    torch.testing.assert_close(result.embeds, wanted[result.keep], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(30))
def test_equals_the_loop(seed: int):
    check_loop(random_prompt(seed).stream(), BUDGETS[seed % len(BUDGETS)], attention=seed % 2 == 1)


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize("budget", BUDGETS)
def test_equals_the_loop_over_several_windows(budget: Budget, attention: bool):
    check_loop(grid_prompt(11), budget, attention)


def test_a_window_does_not_feel_another():
    """Change beyond the neighbouring frame of another window moves nothing in this one."""
    stream = grid_prompt(3, frames=32)
    before = OmniPackCompressor(SPLIT)(stream)
    stream.embeds[(stream.chunk >= 9)] = stream.embeds[(stream.chunk >= 9)].flip(0)
    after = OmniPackCompressor(SPLIT)(stream)
    first = (stream.chunk >= 0) & (stream.chunk < 8)
    assert torch.equal(before.keep[first], after.keep[first])
    assert not torch.equal(before.keep, after.keep)
    assert before.embeds is not None
    assert after.embeds is not None
    torch.testing.assert_close(before.embeds[first[before.keep]], after.embeds[first[after.keep]])


def test_the_important_part_has_its_share():
    """Equal tokens without places: the first ``round(eta K)`` by salience, here the last tokens of each window."""
    for eta in ETA.values():
        kept = torch.tensor([1, 2, 3, 5, 6, 10, 14, 30, 50, 90, 150])  # with halves, and 0.35 * 90 just below one
        valid = torch.ones(len(kept), 210, dtype=torch.bool)
        salience = torch.arange(210.0).expand(len(kept), -1)
        same = torch.ones(len(kept), 210, 210)
        keep = choose(same, torch.zeros_like(same), salience, valid, kept, eta)
        assert keep.sum(dim=1).equal(kept)
        for row, k in zip(keep, kept.tolist(), strict=True):
            first = max(1, round(k * eta))
            assert row[210 - first :].all()
            assert row[: k - first].all()  # all others are equally far: the lowest indices


def test_steps_do_not_grow_with_the_number_of_chunks():
    seen = []
    for seconds in (64, 320):
        with Watch() as watch, torch.no_grad():
            OmniPackCompressor(SPLIT)(regular_prompt(seconds).stream())
        seen.append(watch.steps)
    assert seen[0] == seen[1]


def test_options_and_names():
    assert OmniPackCompressor(SPLIT).label == "omnipack-I"
    assert OmniPackCompressor(SPLIT).needs == frozenset()
    assert OmniPackCompressor(SPLIT, attention=True).label == "omnipack-I-attention"
    with pytest.raises(CompressorError, match="true or false, got 'yes'"):
        OmniPackCompressor(SPLIT, attention="yes")  # type: ignore[arg-type]
    with pytest.raises(CompressorError, match="video_attention"):
        OmniPackCompressor(SPLIT, attention=True)(random_prompt(7).stream())
