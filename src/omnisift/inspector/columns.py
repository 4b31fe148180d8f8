"""Columns of a trace over the clip's tokens: their places, what a method kept, and what its selector attends to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from omnisift.chunks import AUDIO_CHUNK, MICROSECONDS, steps_in_chunk
from omnisift.compressors import Compressor, Paired, VideoCompressor
from omnisift.compressors.omnisift import OmniSiftCompressor
from omnisift.compressors.stvp import StvpCompressor
from omnisift.inspector.trace import (
    KINDS,
    MODALITIES,
    AnchorAttention,
    Chunk,
    ClipTokens,
    Grid,
    MethodSelection,
)
from omnisift.tokens import Modality, Selection, TokenStream

TOP = 3
"""Number of anchors recorded per audio token."""
_VIDEO, _AUDIO, _TEXT = int(Modality.VIDEO), int(Modality.AUDIO), int(Modality.SUBTITLE)


def clip_indices(stream: TokenStream) -> Tensor:
    """[N] int64: positions in the stream of the video and audio tokens, then of the tokens of lines."""
    return (stream.clip >= 0).nonzero()[:, 0]


def clip_tokens(stream: TokenStream, audio_seconds: float) -> ClipTokens:
    """The columns of a stream with one clip; ``audio_seconds`` is the duration of one audio token."""
    index = clip_indices(stream)
    modality = stream.modality[index].numpy()
    video = modality == Modality.VIDEO
    temporal, height, width = (stream.position[axis][index].numpy() for axis in range(3))
    # Rotary positions to grid positions: frames are numbered from 0, rows and columns start at their smallest position.
    frame, row, column = np.full((3, len(index)), -1, np.int64)
    if video.any():
        frame[video] = np.unique(temporal[video], return_inverse=True)[1]
        row[video] = height[video] - height[video].min()
        column[video] = width[video] - width[video].min()
    time, chunk = stream.time[index].numpy(), stream.chunk[index].numpy()
    return ClipTokens(modality.astype(np.int8), time, chunk, frame, row, column, audio_seconds)


def audio_only_tokens(count: int, audio_seconds: float) -> ClipTokens:
    """The columns of audio without video: consecutive tokens outside any chunk."""
    outside = np.full(count, -1, np.int64)
    time = (np.arange(count) * audio_seconds).astype(np.float32)
    modality = np.full(count, int(Modality.AUDIO), np.int8)
    return ClipTokens(modality, time, outside, outside, outside, outside, audio_seconds)


def grid_of(tokens: ClipTokens, frame_seconds: float) -> Grid | None:
    """The grid of the video tokens, None without video; ``frame_seconds`` is the duration of a frame."""
    if not len(tokens.indices(int(Modality.VIDEO))):
        return None
    frames, rows, columns = (int(column.max()) + 1 for column in (tokens.frame, tokens.row, tokens.column))
    return Grid(frames, rows, columns, frame_seconds)


def chunks_of(tokens: ClipTokens, grid: Grid | None, seconds: float) -> tuple[Chunk, ...]:
    """Borders and sizes of the chunks. The last one ends with the clip, which lasts ``seconds``."""
    video, audio, text = (count_by_chunk(tokens, modality) for modality in (_VIDEO, _AUDIO, _TEXT))
    if grid is None:  # no chunks, or those of compressed audio
        borders = [number * AUDIO_CHUNK / MICROSECONDS for number in range(len(audio))]
        spans = zip(borders, [*borders[1:], max(seconds, *borders[-1:], 0.0)], audio, text, strict=False)
        return tuple(Chunk(start, round(end, 6), (), 0, count, words) for start, end, count, words in spans)
    frames = [np.unique(tokens.frame[(tokens.chunk == c) & (tokens.frame >= 0)]).tolist() for c in range(len(video))]
    starts = [numbers[0] * grid.seconds for numbers in frames]
    ends = [*starts[1:], max(seconds, grid.frames * grid.seconds)]
    rows = zip(starts, ends, frames, video, audio, text, strict=True)
    return tuple(Chunk(round(a, 6), round(b, 6), tuple(f), v, s, t) for a, b, f, v, s, t in rows)


def count_by_chunk(tokens: ClipTokens, modality: int, kept: NDArray[np.bool_] | None = None) -> Sequence[int]:
    """Number of tokens of one modality in each chunk; only those in ``kept`` [N] bool if it is given."""
    inside = (tokens.modality == modality) & (tokens.chunk >= 0)
    chunks = int(tokens.chunk.max()) + 1 if len(tokens) else 0
    counts: list[int] = np.bincount(tokens.chunk[inside if kept is None else inside & kept], minlength=chunks).tolist()
    return counts


def method_selection(
    compressor: Compressor, stream: TokenStream, selection: Selection, tokens: ClipTokens
) -> MethodSelection:
    """The columns of a selection.

    Args:
        compressor: the method.
        stream: the token stream it was shown.
        selection: what it returned for ``stream``.
        tokens: the tokens of the clip in ``stream``.
    """
    index = clip_indices(stream)
    kept = selection.keep.cpu()[index].numpy()
    score = np.full(len(tokens), np.nan, np.float32)
    if selection.scores is not None:
        score = selection.scores.detach().float().cpu()[index].numpy()
    score = np.where(tokens.chunk >= 0, score, np.nan).astype(np.float32)
    second = stream.frame[index].numpy() == 1
    return MethodSelection(
        kept=kept,
        score=score,
        kind=_kinds(compressor, tokens, second, ~np.isnan(score)),
        rank=ranks(score, kept, _segments(tokens)),
        merged=_merged(stream, selection),
        video_kept=tuple(count_by_chunk(tokens, _VIDEO, kept)),
        audio_kept=tuple(count_by_chunk(tokens, _AUDIO, kept)),
        text_kept=tuple(count_by_chunk(tokens, _TEXT, kept)),
        anchor_attention=anchor_attention(audio_compressor(compressor), stream, selection.keep),
    )


def video_compressor(compressor: Compressor) -> Compressor:
    """The method that selects the video tokens: the first of a pair."""
    return compressor.video if isinstance(compressor, Paired) else compressor


def audio_compressor(compressor: Compressor) -> Compressor:
    """The method that selects the audio tokens: the second of a pair."""
    return compressor.audio if isinstance(compressor, VideoCompressor) else compressor


def ranks(score: NDArray[np.float32], kept: NDArray[np.bool_], segment: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rank the scores of each segment.

    A method may rank by finer numbers than its scores (OmniSIFT by cosines and logits), so among equal scores the kept
    tokens come first, then the earlier ones.

    Args:
        score: [N], NaN for tokens without a score.
        kept: [N] bool.
        segment: [N] segment number; -1 excludes a token.

    Returns:
        [N]: 1 for the highest score of a segment, 0 without a rank.
    """
    rank = np.zeros(len(score), np.int64)
    scored = np.flatnonzero(~np.isnan(score) & (segment >= 0))
    order = scored[np.lexsort((scored, ~kept[scored], -score[scored], segment[scored]))]
    # Position in the sorted segment: position overall minus that of the segment's first token.
    first = np.searchsorted(segment[order], segment[order])
    rank[order] = np.arange(len(order)) - first + 1
    return rank


def _segments(tokens: ClipTokens) -> NDArray[np.int64]:
    """[N]: a number for every frame, for every chunk's audio and for every chunk's text; -1 outside chunks."""
    frames, chunks = (int(column.max()) + 1 if len(tokens) else 0 for column in (tokens.frame, tokens.chunk))
    text = np.where(tokens.modality == _TEXT, chunks, 0)
    segment = np.where(tokens.frame >= 0, tokens.frame, frames + text + tokens.chunk)
    return np.where(tokens.chunk >= 0, segment, -1)


def _merged(stream: TokenStream, selection: Selection) -> tuple[str, ...]:
    """Names of the modalities in which a kept embedding was replaced."""
    if selection.embeds is None:
        return ()
    changed = (selection.embeds != stream.embeds[selection.keep]).any(dim=-1).cpu()
    modality = stream.modality[selection.keep.cpu()]
    return tuple(MODALITIES[kind] for kind in (_VIDEO, _AUDIO) if bool(changed[modality == kind].any()))


def _kinds(
    compressor: Compressor, tokens: ClipTokens, second: NDArray[np.bool_], scored: NDArray[np.bool_]
) -> NDArray[np.int8]:
    """[N]: index into `KINDS`; ``second`` [N] bool marks the second frames of chunks."""
    video = np.where(second, *(KINDS.index(name) for name in _video_kinds(video_compressor(compressor))))
    audio = KINDS.index("selector" if isinstance(audio_compressor(compressor), OmniSiftCompressor) else "method")
    kind = np.where(tokens.modality == _VIDEO, video, audio)
    kind = np.where(tokens.modality == _TEXT, KINDS.index("track"), kind)
    return np.where(scored, kind, 0).astype(np.int8)


def _video_kinds(method: Compressor) -> tuple[str, str]:
    """Kind of the scores in second frames, and in first frames."""
    if isinstance(method, OmniSiftCompressor):
        learned = method.selector is not None and method.selector.video_score is not None
        return ("learned", "learned") if learned else ("temporal", "spatial")
    if isinstance(method, StvpCompressor):
        return {"both": ("temporal", "spatial"), "spatial": ("spatial", "spatial")}.get(method.mode, ("method",) * 2)
    return "method", "method"


@torch.no_grad()
def anchor_attention(method: Compressor, stream: TokenStream, keep: Tensor) -> AnchorAttention | None:
    """Attention of each audio token over the kept video tokens of its chunk.

    As in the method itself, a chunk whose video was dropped entirely is guided by all of it, and a chunk with a single
    audio token is not scored.

    Args:
        method: the compressor that selected the audio.
        stream: what it was shown.
        keep: [L] bool, what it returned.

    Returns:
        None unless ``method`` has a selector that attends to the video.
    """
    selector = method.selector if isinstance(method, OmniSiftCompressor) else None
    if selector is None or selector.config.guide == "self" or not selector.config.audio_score:
        return None
    device = stream.embeds.device
    # The trace numbers clip tokens without the text.
    keep, number = keep.cpu(), torch.cumsum(stream.clip >= 0, dim=0) - 1
    steps = steps_in_chunk(stream)
    parts = []
    for chunk in range(int(stream.chunk.max()) + 1):
        inside = stream.chunk == chunk
        audio = torch.nonzero(inside & (stream.modality == Modality.AUDIO))[:, 0]
        video = inside & (stream.modality == Modality.VIDEO)
        if len(audio) < 2 or not bool(video.any()):
            continue
        anchors = torch.nonzero(video & keep if bool((video & keep).any()) else video)[:, 0]
        # Same inputs as in the compressor: embeddings, and steps for selectors with a time embedding.
        embeds = [stream.embeds[index.to(device)].to(selector.dtype)[None] for index in (anchors, audio)]
        times = [steps[index].to(device)[None] for index in (anchors, audio)]
        share = selector.attention(*embeds, *times)[0].float().cpu()
        parts.append((number[audio], *_highest(share, number[anchors])))
    if not parts:
        return None
    token, top, shares = (torch.cat(columns).numpy() for columns in zip(*parts, strict=True))
    return AnchorAttention(token, top, shares.astype(np.float32))


def _highest(share: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """([A, TOP] indices, [A, TOP] shares) from ``share`` [A, K] and ``anchors`` [K], padded with -1 and 0."""
    count = min(TOP, len(anchors))
    values, column = torch.sort(share, dim=1, descending=True, stable=True)
    top = torch.full((len(share), TOP), -1, dtype=torch.int64)
    top[:, :count] = anchors[column[:, :count]]
    shares = torch.zeros(len(share), TOP)
    shares[:, :count] = values[:, :count]
    return top, shares
