"""Plain loops to compare the library with: OmniSIFT, written from the paper, and the arithmetic of other methods.

In OmniSIFT, chunks are pairs of distinct temporal ids. Both frames drop k = int(n rho) tokens, where n is the size of
the first frame; a second frame of another size is kept completely. The audio of a chunk is kept completely if it has at
most one token, if no video token of the chunk is kept, or if none of it would be kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.budget import Budget
from omnisift.chunks import ChunkShapes
from omnisift.tokens import Modality, TokenStream

NEAR = 1e-5


@dataclass
class Reference:
    keep: Tensor
    """[L] bool"""
    margin: Tensor
    """[L] float: distance of a token's score from its segment's threshold; infinite if the segment is not ranked."""
    scores: Tensor = field(default_factory=lambda: torch.empty(0))


def clips_of(modality: list[int], sample: list[int]) -> list[list[int]]:
    """Runs of video (1) and audio (2) tokens of one sample with at least one video token."""
    runs: list[list[int]] = []
    for i, kind in enumerate(modality):
        if kind == 0:
            continue
        follows = i > 0 and modality[i - 1] != 0 and sample[i - 1] == sample[i]
        if follows:
            runs[-1].append(i)
        else:
            runs.append([i])
    return [run for run in runs if any(modality[i] == 1 for i in run)]


def selector_scores(selector, video: Tensor, audio: Tensor) -> Tensor:
    """Paper eq 6-9 with the selector's modules: [A]."""
    v = selector.v_norm(selector.v_proj(video))[None]
    a = selector.a_norm(selector.a_proj(audio))[None]
    mixed, _ = selector.cross_attn(a, v, v)
    return torch.sigmoid(selector.score_head(selector.post_attn_norm(mixed + a)))[0, :, 0]


def reference(embeds, modality, temporal, sample, rho_video, rho_audio, selector=None) -> Reference:
    """``rho_*``: fraction removed, a number or one per clip."""
    out = Reference(torch.ones(len(modality), dtype=torch.bool), torch.full((len(modality),), torch.inf))
    out.scores = torch.full((len(modality),), torch.nan)
    kinds, times = modality.tolist(), temporal.tolist()
    for number, clip in enumerate(clips_of(kinds, sample.tolist())):
        rho_v = rho_video[number] if isinstance(rho_video, list) else rho_video
        rho_a = rho_audio[number] if isinstance(rho_audio, list) else rho_audio
        frames = sorted({times[i] for i in clip if kinds[i] == 1})
        for first in range(0, len(frames), 2):
            start = frames[first]
            end = frames[first + 2] if first + 2 < len(frames) else float("inf")
            frame0 = [i for i in clip if kinds[i] == 1 and times[i] == start]
            frame1 = [i for i in clip if kinds[i] == 1 and first + 1 < len(frames) and times[i] == frames[first + 1]]
            audio = [i for i in clip if kinds[i] == 2 and start <= times[i] < end]
            drop = int(len(frame0) * rho_v)
            spatial = F.cosine_similarity(embeds[frame0], embeds[frame0].mean(dim=0, keepdim=True), dim=-1)
            _cut(out, frame0, -spatial, len(frame0) - drop, 1 - spatial)
            if len(frame1) == len(frame0):
                temporal_similarity = F.cosine_similarity(embeds[frame0], embeds[frame1], dim=-1)
                _cut(out, frame1, -temporal_similarity, len(frame1) - drop, 1 - temporal_similarity)
            anchors = [i for i in frame0 + frame1 if out.keep[i]]
            kept = len(audio) - int(len(audio) * rho_a)
            if len(audio) > 1 and anchors and kept > 0:
                scores = selector_scores(selector, embeds[anchors], embeds[audio])
                _cut(out, audio, scores, kept, scores)
    return out


def _cut(out: Reference, indices: list[int], values: Tensor, kept: int, report: Tensor) -> None:
    """Keep the highest ``values``; of equal values the first."""
    order = sorted(range(len(indices)), key=lambda i: -float(values[i]))
    out.scores[indices] = report.detach().float()
    if kept == len(indices):
        return
    for i in order[kept:]:
        out.keep[indices[i]] = False
    cut = (float(values[order[kept - 1]]) + float(values[order[kept]])) / 2 if kept else float(values[order[0]]) + 1
    for i, index in enumerate(indices):
        out.margin[index] = abs(float(values[i]) - cut)


def frames_of(stream: TokenStream) -> list[list[list[int]]]:
    """Indices of the tokens of each frame of each clip, in order of time."""
    clips: dict[int, dict[int, list[int]]] = {}
    for index in range(len(stream)):
        if stream.modality[index] == Modality.VIDEO:
            time = int(stream.position[0, index])
            clips.setdefault(int(stream.clip[index]), {}).setdefault(time, []).append(index)
    return [[frames[time] for time in sorted(frames)] for _, frames in sorted(clips.items())]


def audio_of(stream: TokenStream) -> list[list[int]]:
    """Indices of the audio tokens inside chunks, for each clip that has any."""
    clips: dict[int, list[int]] = {}
    for index in range(len(stream)):
        if stream.modality[index] == Modality.AUDIO and stream.chunk[index] >= 0:
            clips.setdefault(int(stream.clip[index]), []).append(index)
    return [indices for _, indices in sorted(clips.items())]


def windows_of(stream: TokenStream, budget: Budget, chunks: int = 1) -> list[tuple[Modality, list[int], int]]:
    """(modality, sorted token indices, number kept) of every window of ``chunks`` consecutive chunks of a clip."""
    counts = budget.counts(ChunkShapes.of(stream))
    video, audio = (counts.frame0 + counts.frame1).tolist(), counts.audio.tolist()
    first: dict[int, int] = {}  # of each clip
    for chunk, clip in zip(stream.chunk.tolist(), stream.clip.tolist(), strict=True):
        if chunk >= 0:
            first[clip] = min(first.get(clip, chunk), chunk)
    indices: dict[tuple[int, int, int], list[int]] = {}
    members: dict[tuple[int, int, int], set[int]] = {}
    for index in range(len(stream)):
        chunk, clip = int(stream.chunk[index]), int(stream.clip[index])
        if chunk >= 0:
            key = (clip, (chunk - first[clip]) // chunks, int(stream.modality[index]))
            indices.setdefault(key, []).append(index)
            members.setdefault(key, set()).add(chunk)
    result = []
    for key in sorted(indices):
        modality = Modality(key[2])
        each = video if modality is Modality.VIDEO else audio
        result.append((modality, indices[key], sum(each[chunk] for chunk in members[key])))
    return result


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """Cosine of two vectors; 0 if one is zero."""
    length = float(a.norm() * b.norm())
    return float(a @ b) / length if length > 0 else 0.0


def rounded_cosine(x: torch.Tensor, y: torch.Tensor) -> float:
    """Cosine in float64, rounded as in the library."""
    x, y = x.double(), y.double()
    norm = float(x.norm() * y.norm())
    return round(float(x @ y) / norm * 2**20) / 2**20 if norm > 0 else 0.0


def cosines(embeds: torch.Tensor, indices: list[int]) -> list[list[float]]:
    """Rounded cosines of all pairs."""
    return [[rounded_cosine(embeds[i], embeds[j]) for j in indices] for i in indices]


def highest(scores: Sequence[float], count: int) -> list[int]:
    """Return the sorted indices of the ``count`` highest scores; of equal scores the first."""
    return sorted(sorted(range(len(scores)), key=lambda i: -scores[i])[:count])


def unlike_mean(embeds: torch.Tensor, indices: list[int]) -> list[float]:
    mean = embeds[indices].mean(dim=0)
    return [1 - cosine(embeds[index], mean) for index in indices]


def check_best(keep: torch.Tensor, indices: list[int], scores: list[float], count: int) -> None:
    """Check that ``count`` of ``indices`` are kept and that no dropped one scores clearly higher than a kept one."""
    kept = [score for index, score in zip(indices, scores, strict=True) if keep[index]]
    dropped = [score for index, score in zip(indices, scores, strict=True) if not keep[index]]
    assert len(kept) == count
    if kept and dropped:
        assert min(kept) >= max(dropped) - NEAR


def shares(weights: Sequence[float], sizes: Sequence[int], total: float, minimum: int = 0) -> list[float]:
    """Divide ``total`` into parts, before rounding: ``minimum`` each, the rest by weight; by size without any weight.

    Parts that reach their size are fixed; the others share the rest again.
    """
    given = {i: 0.0 for i in range(len(sizes)) if sizes[i] == 0}
    wish: dict[int, float] = {}
    while len(given) < len(sizes):
        others = [i for i in range(len(sizes)) if i not in given]
        rest = total - sum(given.values()) - minimum * len(others)
        weight = {i: weights[i] for i in others}
        if sum(weight.values()) <= 0:
            weight = {i: float(sizes[i]) for i in others}
        wish = {i: minimum + rest * weight[i] / sum(weight.values()) for i in others}
        full = [i for i in others if wish[i] >= sizes[i]]
        if not full:
            break
        given |= {i: float(sizes[i]) for i in full}
    return [given.get(i, wish.get(i, 0.0)) for i in range(len(sizes))]


def shared(total: int, pull: Sequence[float], limit: Sequence[int]) -> list[int]:
    """Round `shares` by largest remainder."""
    share = shares(pull, limit, total)
    parts = [min(math.floor(s + 1e-9), r) for s, r in zip(share, limit, strict=True)]
    remainder = [round(s - w, 9) if w < r else -1.0 for s, w, r in zip(share, parts, limit, strict=True)]
    for i in highest(remainder, total - sum(parts)):
        parts[i] += 1
    return parts


def check_rounded(counts: list[int], exact: list[float]) -> None:
    """Check that ``counts`` round ``exact`` by largest remainder; remainders within the tolerance count as equal."""
    assert sum(counts) == round(sum(exact))
    assert all(-NEAR < count - math.floor(x) < 1 + NEAR for count, x in zip(counts, exact, strict=True))
    up = [x - math.floor(x) for count, x in zip(counts, exact, strict=True) if count > x]
    down = [x - math.floor(x) for count, x in zip(counts, exact, strict=True) if count < x]
    assert not up or not down or min(up) >= max(down) - NEAR


def check_shared(keep: torch.Tensor, frames: list[list[int]], exact: list[float], scores: list[list[float]]) -> None:
    """Check that each frame keeps its rounded share, and in it the tokens with the highest scores."""
    counts = [int(keep[frame].sum()) for frame in frames]
    check_rounded(counts, exact)
    for frame, values, count in zip(frames, scores, counts, strict=True):
        check_best(keep, frame, values, count)


def video_total(stream: TokenStream, budget: Budget, frames: list[list[int]]) -> int:
    """The budget's number of video tokens for the clip of these frames."""
    shapes = ChunkShapes.of(stream)
    counts = budget.counts(shapes)
    return int((counts.frame0 + counts.frame1)[shapes.clip == stream.clip[frames[0][0]]].sum())
