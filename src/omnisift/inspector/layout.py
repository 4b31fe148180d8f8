"""Where and when each token is: from a `TokenStream` of one clip, or from a count where there was no picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from omnisift.inspector.trace import Chunk, Grid, Tokens
from omnisift.tokens import Modality, TokenStream


def media_places(stream: TokenStream) -> Tensor:
    """[N] int64: places in the stream of the tokens of its clip."""
    return (stream.clip >= 0).nonzero()[:, 0]


def tokens_of(stream: TokenStream, audio_seconds: float) -> Tokens:
    """Columns of the clip's tokens; ``audio_seconds`` is the length of one audio token."""
    places = media_places(stream)
    modality = stream.modality[places].numpy()
    video = modality == Modality.VIDEO
    temporal, height, width = (stream.position[axis][places].numpy() for axis in range(3))
    columns = np.full((3, len(places)), -1, np.int64)
    if video.any():
        columns[0, video] = np.unique(temporal[video], return_inverse=True)[1]
        columns[1, video] = height[video] - height[video].min()
        columns[2, video] = width[video] - width[video].min()
    time, chunk = stream.time[places].numpy(), stream.chunk[places].numpy()
    frame, row, column = columns
    return Tokens(modality.astype(np.int8), time, chunk, frame, row, column, audio_seconds)


def tokens_of_sound(count: int, audio_seconds: float) -> Tokens:
    """Sound without picture: one token after the other, in no chunk."""
    outside = np.full(count, -1, np.int64)
    time = (np.arange(count) * audio_seconds).astype(np.float32)
    modality = np.full(count, int(Modality.AUDIO), np.int8)
    return Tokens(modality, time, outside, outside, outside, outside, audio_seconds)


def grid_of(tokens: Tokens, frame_seconds: float) -> Grid | None:
    """The rectangle of video tokens, None without any."""
    if not len(tokens.places(int(Modality.VIDEO))):
        return None
    frames, rows, columns = (int(column.max()) + 1 for column in (tokens.frame, tokens.row, tokens.column))
    return Grid(frames, rows, columns, frame_seconds)


def chunks_of(tokens: Tokens, grid: Grid | None, seconds: float) -> tuple[Chunk, ...]:
    """Borders and sizes. A chunk ends where the next one begins, the last with the clip (``seconds``)."""
    if grid is None:
        return ()
    video, audio = (count_by_chunk(tokens, modality) for modality in (Modality.VIDEO, Modality.AUDIO))
    frames = [np.unique(tokens.frame[(tokens.chunk == c) & (tokens.frame >= 0)]).tolist() for c in range(len(video))]
    starts = [first[0] * grid.seconds for first in frames]
    ends = [*starts[1:], max(seconds, grid.frames * grid.seconds)]
    rows = zip(starts, ends, frames, video, audio, strict=True)
    return tuple(Chunk(round(a, 6), round(b, 6), tuple(f), v, s) for a, b, f, v, s in rows)


def count_by_chunk(tokens: Tokens, modality: int, kept: NDArray[np.bool_] | None = None) -> Sequence[int]:
    """Tokens of one modality in each chunk, or only those ``kept`` [N]."""
    inside = (tokens.modality == modality) & (tokens.chunk >= 0)
    chunks = int(tokens.chunk.max()) + 1 if len(tokens) else 0
    counts: list[int] = np.bincount(tokens.chunk[inside if kept is None else inside & kept], minlength=chunks).tolist()
    return counts
