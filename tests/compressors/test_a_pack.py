"""A-PACK's first stage against a readable loop: alignment, segments, shares, anchors and the other frames."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from tests.helpers.contract import BUDGETS, SPLIT, Watch, check_counts
from tests.helpers.oracle import check_best, check_rounded, frames_of, rounded_cosine, shares, video_total
from tests.helpers.prompts import Prompt, random_prompt, regular_prompt, steady_prompt

from omnisift.budget import Budget
from omnisift.compressors.a_pack import APackCompressor, Signals, alignment, anchors
from omnisift.compressors.random import RandomCompressor
from omnisift.ops.frames import Frames
from omnisift.tokens import Modality, TokenStream


def means_of(stream: TokenStream, frames: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the picture of each frame, and of the sound from its start to the next frame's."""
    x, time = stream.embeds.double(), stream.position[0]
    starts = [int(time[frame[0]]) for frame in frames] + [10**12]
    clip = stream.clip[frames[0][0]]
    audio = (stream.modality == Modality.AUDIO) & (stream.chunk >= 0) & (stream.clip == clip)
    sound = []
    for begin, end in itertools.pairwise(starts):
        mine = audio & (time >= begin) & (time < end)
        sound.append(x[mine].mean(dim=0) if mine.any() else torch.zeros_like(x[0]))
    return np.stack([x[frame].mean(dim=0).numpy() for frame in frames]), torch.stack(sound).numpy()


def loop_cka(left: np.ndarray, right: np.ndarray) -> float:
    left, right = left - left.mean(axis=0), right - right.mean(axis=0)
    one, other = left @ left.T, right @ right.T
    if np.trace(one) < 1e-9 or np.trace(other) < 1e-9:
        return 0.0
    return float((one * other).sum() / (np.linalg.norm(one) * np.linalg.norm(other)))


def loop_alignment(picture: np.ndarray, sound: np.ndarray) -> list[float]:
    count = len(picture)
    if not sound.any():
        return [1.0] * count
    begin = [max(0, min(t - 1, count - 3)) for t in range(count)]
    score = [loop_cka(picture[b : b + 3], sound[b : b + 3]) for b in begin]
    if sum(score) / count >= 0.78:
        return score
    far = np.linalg.norm(picture - sound, axis=1)
    close = 1 - (far - far.min()) / max(1e-12, far.max() - far.min())
    return [0.1 * c + 0.9 * d for c, d in zip(score, close, strict=True)]


def loop_segments(picture: np.ndarray, sizes: list[int]) -> list[list[int]]:
    """Frames of each segment."""
    count = len(picture)
    weight = {step: math.exp(-0.5 * step * step) for step in range(-3, 4)}
    smooth = [sum(weight[s] * picture[t + s] for s in weight if 0 <= t + s < count) for t in range(count)]
    segments: list[list[int]] = []
    for t in range(count):
        same = t > 0 and sizes[t] == sizes[t - 1]
        if same and rounded_cosine(torch.tensor(smooth[t]), torch.tensor(smooth[t - 1])) >= 0.97:
            segments[-1].append(t)
        else:
            segments.append([t])
    return segments


def loop_anchor(embeds: torch.Tensor, frame: list[int], kept: int) -> set[int]:
    like = [[max(0.0, rounded_cosine(embeds[i], embeds[j])) for j in frame] for i in frame]
    signed = [[rounded_cosine(embeds[i], embeds[j]) for j in frame] for i in frame]
    strength = []
    for i in range(len(frame)):
        near = sorted((signed[i][j] for j in range(len(frame)) if j != i), reverse=True)[:5]
        strength.append(math.sqrt(min(1.0, max(0.0, sum(near) / len(near)))) if near else 1.0)
    chosen: list[int] = []
    while len(chosen) < kept:
        value = [(1 - max((like[i][j] for j in chosen), default=0.0)) * strength[i] for i in range(len(frame))]
        free = [i for i in range(len(frame)) if i not in chosen]
        chosen.append(max(free, key=lambda i: (round(value[i], 6), -i)))
    return {frame[i] for i in chosen}


def check_loop(stream: TokenStream, budget: Budget) -> None:
    keep = APackCompressor(budget)(stream).keep
    check_counts("a_pack", stream, keep, budget)
    for frames in frames_of(stream):
        sizes = [len(frame) for frame in frames]
        picture, sound = means_of(stream, frames)
        aligned, segments = loop_alignment(picture, sound), loop_segments(picture, sizes)
        share = {t: 1 / math.sqrt(len(segment)) for segment in segments for t in segment}
        total = sum(aligned)
        weight = [
            (0.9 * share[t] / sum(share.values()) + 0.1 * (aligned[t] / total if total else 1 / len(frames))) * sizes[t]
            for t in range(len(frames))
        ]
        counts = [int(keep[frame].sum()) for frame in frames]
        check_rounded(counts, shares(weight, sizes, video_total(stream, budget, frames)))
        for segment in segments:
            anchor = frames[segment[0]]
            assert {i for i in anchor if keep[i]} == loop_anchor(stream.embeds, anchor, counts[segment[0]])
            for t in segment[1:]:
                pairs = zip(frames[t], anchor, strict=True)
                unlike = [-rounded_cosine(stream.embeds[i], stream.embeds[j]) for i, j in pairs]
                check_best(keep, frames[t], unlike, counts[t])


def slow_prompt(seed: int, frames: int = 11) -> Prompt:
    """A clip whose scenes last for several frames."""
    prompt = steady_prompt(frames, 9, 25 * frames, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    scene = torch.randn(16, generator=generator)
    for start in sorted({int(time) for time in prompt.temporal[prompt.modality == Modality.VIDEO]}):
        if torch.rand(1, generator=generator) < 0.3:
            scene = torch.randn(16, generator=generator)
        prompt.embeds[(prompt.modality == Modality.VIDEO) & (prompt.temporal == start)] += 3 * scene
    return prompt


@pytest.mark.parametrize("seed", range(30))
def test_equals_the_loop(seed: int):
    check_loop(random_prompt(seed).stream(), BUDGETS[seed % len(BUDGETS)])


@pytest.mark.parametrize("seed", range(10))
def test_equals_the_loop_where_scenes_last(seed: int):
    check_loop(slow_prompt(seed).stream(), BUDGETS[seed % len(BUDGETS)])


def test_a_scene_has_an_anchor():
    """Six frames of one scene and six of another: the first and the last ones share an anchor each."""
    stream = steady_prompt(12, 6, 0).stream()
    frames = frames_of(stream)[0]
    embeds = 0.01 * stream.embeds
    for number, frame in enumerate(frames):
        embeds[frame, 0 if number < 6 else 1] += 1.0
    stream = dataclasses.replace(stream, embeds=embeds)
    numbered = Frames.of(stream)
    anchor = anchors(Signals.of(stream, numbered), numbered)
    assert anchor[[0, 3, 8, 11]].tolist() == [0, 0, 7, 7]  # smoothing makes a way from one to the other
    assert len(set(anchor.tolist())) > 2


def test_a_frame_keeps_what_its_anchor_does_not_have():
    stream = steady_prompt(2, 6, 0).stream()
    first, second = frames_of(stream)[0]
    embeds, axes = torch.zeros_like(stream.embeds), torch.eye(16)
    embeds[first] = axes[0] + 0.1 * axes[1:7]
    embeds[second] = embeds[first]
    embeds[second[3], 9] += 0.2
    keep = APackCompressor(Budget(retain=0.16))(dataclasses.replace(stream, embeds=embeds)).keep
    assert int(keep[first].sum()) == 1
    assert [place for place, index in enumerate(second) if keep[index]] == [3]


def test_an_anchor_covers_its_groups():
    """Five tokens of one kind, four of another and one alone: the denser kinds come first."""
    stream = steady_prompt(1, 10, 0).stream()
    (frame,) = frames_of(stream)[0]
    embeds, axes = torch.zeros_like(stream.embeds), torch.eye(16)
    embeds[frame[1:6]], embeds[frame[6:]], embeds[frame[0]] = axes[0], axes[1], axes[2]
    keep = APackCompressor(Budget(retain=0.2))(dataclasses.replace(stream, embeds=embeds)).keep
    assert [place for place, index in enumerate(frame) if keep[index]] == [1, 6]


def test_sound_that_moves_with_the_picture_is_aligned():
    """In the first half both step together; in the second the picture moves and the sound does not."""
    stream = steady_prompt(12, 4, 300).stream()
    embeds, axes = torch.zeros_like(stream.embeds), torch.eye(16)
    time = (stream.position[0] // 10**6).clamp(max=11)
    video, audio = stream.modality == Modality.VIDEO, stream.modality == Modality.AUDIO
    embeds[video] = axes[0] + axes[2] * (time[video] % 3)[:, None]
    embeds[audio] = axes[1] + axes[5] * ((time[audio] % 3) * (time[audio] < 6))[:, None]
    stream = dataclasses.replace(stream, embeds=embeds)
    frames = Frames.of(stream)
    signals = Signals.of(stream, frames)
    same = dataclasses.replace(signals, distance=torch.ones_like(signals.distance))
    aligned = alignment(same, frames)  # equal distances: 0.1 CKA + 0.9
    assert aligned[:5].tolist() == pytest.approx([1.0] * 5)
    assert aligned[8:].tolist() == pytest.approx([0.9] * 4)


def test_steps_do_not_grow_with_the_number_of_chunks():
    seen = []
    for seconds in (64, 320):
        with Watch() as watch, torch.no_grad():
            APackCompressor(SPLIT)(regular_prompt(seconds).stream())
        seen.append(watch.steps)
    assert seen[0] == seen[1]


def test_labels():
    assert APackCompressor(SPLIT).label == "a_pack-I"
    assert APackCompressor(SPLIT, RandomCompressor(SPLIT)).label == "a_pack-I+random"
