"""OmniSIFT as a plain loop over samples and chunks, written from the paper: the reference for the vectorised code.

Chunks are pairs of distinct temporal ids. Both frames drop k = int(n rho) tokens, where n is the size of the first
frame; a second frame of another size is kept completely. The audio of a chunk is kept completely if it has at most one
token, if no video token of the chunk is kept, or if none of it would be kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor


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
