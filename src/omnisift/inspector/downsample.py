"""How much of a long clip a page shows in detail, so that it stays small; the trace itself is never thinned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omnisift.inspector.trace import Trace
from omnisift.tokens import Modality

MOST_FRAMES = 128
"""Frames with a picture: two minutes at the usual rate."""
MOST_CELLS = 120_000
"""Tokens of each modality, times methods."""
_ANCHORS = 3
"""A sound token's anchors take so many times the room of its score."""


@dataclass(frozen=True)
class Downsampled:
    """What is shown."""

    frames: tuple[int, ...]
    """Numbers of frames, two of a chunk side by side."""
    audio: NDArray[np.int64]
    """Numbers of audio tokens in the trace."""
    notes: tuple[str, ...]
    """Plain sentences about what is left out."""


def thin(trace: Trace) -> Downsampled:
    """Every n-th chunk's frames and every m-th audio token, n and m as small as fits; all of them in short clips."""
    chosen = [asked.selected for asked in trace.methods if asked.selected is not None]
    notes = []
    frames: tuple[int, ...] = ()
    if trace.grid is not None:
        cells = trace.grid.rows * trace.grid.columns
        most = min(MOST_FRAMES, MOST_CELLS // (cells * len(chosen)))
        step = _step(trace.grid.frames, max(2, most))
        frames = tuple(frame for chunk in trace.chunks[::step] for frame in chunk.frames)
        if step > 1:
            notes.append(
                f"Long clip: of {trace.grid.frames} frames {len(frames)} are shown, those of one chunk in {step}. "
                "Counts, answers and times are those of the whole clip; omnisift inspect --json has every token."
            )
    audio = trace.tokens.places(int(Modality.AUDIO))
    weight = sum(1 if one.looks is None else 1 + _ANCHORS for one in chosen)
    step = _step(len(audio) * weight, MOST_CELLS)
    if step > 1:
        notes.append(f"Of {len(audio)} sound tokens one in {step} is shown.")
    return Downsampled(frames, audio[::step], tuple(notes))


def _step(count: int, most: int) -> int:
    return max(1, -(-count // most))
