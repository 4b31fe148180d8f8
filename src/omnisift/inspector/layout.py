"""Locate each token of a clip in time, frame and chunk, from a `TokenStream` or from a count of audio tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from omnisift.inspector.trace import Chunk, ClipTokens, Grid
from omnisift.tokens import Modality, TokenStream


def clip_indices(stream: TokenStream) -> Tensor:
    """[N] int64: positions in the stream of the video and audio tokens."""
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
    if grid is None:
        return ()
    video, audio = (count_by_chunk(tokens, modality) for modality in (Modality.VIDEO, Modality.AUDIO))
    frames = [np.unique(tokens.frame[(tokens.chunk == c) & (tokens.frame >= 0)]).tolist() for c in range(len(video))]
    starts = [numbers[0] * grid.seconds for numbers in frames]
    ends = [*starts[1:], max(seconds, grid.frames * grid.seconds)]
    rows = zip(starts, ends, frames, video, audio, strict=True)
    return tuple(Chunk(round(a, 6), round(b, 6), tuple(f), v, s) for a, b, f, v, s in rows)


def count_by_chunk(tokens: ClipTokens, modality: int, kept: NDArray[np.bool_] | None = None) -> Sequence[int]:
    """Number of tokens of one modality in each chunk; only those in ``kept`` [N] bool if it is given."""
    inside = (tokens.modality == modality) & (tokens.chunk >= 0)
    chunks = int(tokens.chunk.max()) + 1 if len(tokens) else 0
    counts: list[int] = np.bincount(tokens.chunk[inside if kept is None else inside & kept], minlength=chunks).tolist()
    return counts
