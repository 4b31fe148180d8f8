"""Choose the frames and audio tokens that a page shows of a long clip; the trace itself keeps every token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omnisift.inspector.trace import Trace
from omnisift.tokens import Modality

MAX_FRAMES = 128
"""Frames shown: two minutes at the default sampling rate."""
MAX_CELLS = 120_000
"""Tokens shown per modality, times methods."""
_ANCHORS = 3
"""Size of an audio token's anchors relative to its score."""


@dataclass(frozen=True)
class Downsampled:
    """The part of a trace that a page shows."""

    frames: tuple[int, ...]
    """Indices of frames; both frames of a chunk are shown or neither."""
    audio: NDArray[np.int64]
    """Indices of audio tokens in the trace."""
    notes: tuple[str, ...]
    """One sentence per modality that is not shown completely."""


def downsample_trace(trace: Trace) -> Downsampled:
    """Every n-th chunk's frames and every m-th audio token, with the smallest n and m that fit the limits."""
    selections = [method.selection for method in trace.methods if method.selection is not None]
    notes = []
    frames: tuple[int, ...] = ()
    if trace.grid is not None:
        cells = trace.grid.rows * trace.grid.columns
        limit = min(MAX_FRAMES, MAX_CELLS // (cells * len(selections)))
        step = _step(trace.grid.frames, max(2, limit))
        frames = tuple(frame for chunk in trace.chunks[::step] for frame in chunk.frames)
        if step > 1:
            notes.append(
                f"Long clip: {len(frames)} of {trace.grid.frames} frames are shown, those of every {step}th chunk. "
                "Counts, answers and times are for the full clip; omnisift inspect --json has every token."
            )
    audio = trace.tokens.indices(int(Modality.AUDIO))
    weight = sum(1 if selection.anchor_attention is None else 1 + _ANCHORS for selection in selections)
    step = _step(len(audio) * weight, MAX_CELLS)
    if step > 1:
        notes.append(f"One in {step} of {len(audio)} audio tokens is shown.")
    return Downsampled(frames, audio[::step], tuple(notes))


def _step(count: int, limit: int) -> int:
    return max(1, -(-count // limit))
