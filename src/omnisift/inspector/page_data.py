"""The data that the page's script draws from: the part of a trace that is shown, with frames and audio as data URIs."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnisift.inspector.collect import Inspection
from omnisift.inspector.images import encode_jpegs, encode_png, spectrogram_image, waveform_envelope
from omnisift.inspector.lines import readable
from omnisift.inspector.trace import KINDS, ClipTokens, MethodSelection, MethodTrace, Trace, TraceEvidence
from omnisift.tokens import Modality

IMAGE_BYTES = 3_300_000
"""Maximum bytes of all images together; base64 adds a third."""
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
    lines: int
    """How many lines of text are shown: the first ones."""
    notes: tuple[str, ...]
    """One sentence per modality that is not shown completely."""


def downsample_trace(trace: Trace) -> Downsampled:
    """Every n-th chunk's frames and every m-th audio token, with the smallest n and m that fit the limits.

    Of the lines of text, the first ones that fit.
    """
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
    ends = np.cumsum([len(line.pieces) for line in trace.lines]) * max(1, len(selections))
    lines = int(np.searchsorted(ends, MAX_CELLS, side="right"))
    if lines < len(trace.lines):
        notes.append(f"The first {lines} of {len(trace.lines)} lines of text are shown.")
    return Downsampled(frames, audio[::step], lines, tuple(notes))


def _step(count: int, limit: int) -> int:
    return max(1, -(-count // limit))


def page_data(inspection: Inspection, shown: Downsampled) -> dict[str, Any]:
    """JSON-ready. Cells number the patches of a frame row by row; ``video`` columns run through the shown frames."""
    trace, media = inspection.trace, inspection.media
    cells, audio = cell_tokens(trace, shown.frames), shown.audio
    lines = trace.lines[: shown.lines]
    text = np.concatenate([np.zeros(0, np.int64), *(line.tokens for line in lines)])
    return {
        "seconds": max([trace.clip.seconds, *(chunk.end for chunk in trace.chunks)]),
        "grid": None if trace.grid is None else vars(trace.grid),
        "size": [trace.clip.width, trace.clip.height],
        "frames": list(shown.frames),
        "images": [
            _uri("image/jpeg", file)
            for file in encode_jpegs(media, shown.frames, IMAGE_BYTES, inspection.images_per_frame)
        ],
        "chunks": [[chunk.start, chunk.end, chunk.video, chunk.audio, chunk.text] for chunk in trace.chunks],
        "wave": _wave(inspection),
        "audio": {
            "time": [round(value, 3) for value in trace.tokens.time[audio].tolist()],
            "chunk": trace.tokens.chunk[audio].tolist(),
            "seconds": trace.tokens.audio_seconds,
        },
        "text": {
            "lines": [[round(line.start, 3), [readable(piece) for piece in line.pieces]] for line in lines],
            "chunk": trace.tokens.chunk[text].tolist(),
        },
        "kinds": KINDS,
        "methods": [_method(method, trace, cells, audio, text) for method in trace.methods],
        "evidence": None if trace.evidence is None else _evidence(trace.evidence, trace, audio),
    }


def cell_tokens(trace: Trace, frames: tuple[int, ...]) -> NDArray[np.int64]:
    """[len(frames) * rows * columns]: index of the token in each cell of these frames."""
    if trace.grid is None:
        return np.zeros(0, np.int64)
    tokens = trace.tokens
    video = tokens.indices(int(Modality.VIDEO))
    size = trace.grid.rows * trace.grid.columns
    table = np.empty(trace.grid.frames * size, np.int64)
    table[tokens.frame[video] * size + cell_of(tokens, trace, video)] = video
    return np.asarray(table.reshape(trace.grid.frames, size)[list(frames)].flatten())


def cell_of(tokens: ClipTokens, trace: Trace, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """The cell of each video token in its frame, row by row."""
    columns = 0 if trace.grid is None else trace.grid.columns
    return np.asarray(tokens.row[indices] * columns + tokens.column[indices])


def _method(
    method: MethodTrace, trace: Trace, cells: NDArray[np.int64], audio: NDArray[np.int64], text: NDArray[np.int64]
) -> dict[str, Any]:
    selection = method.selection
    return {
        "name": method.name,
        "label": method.label,
        "merged": [] if selection is None else list(selection.merged),
        "video": None if selection is None else _columns(selection, cells),
        "audio": None if selection is None else _columns(selection, audio),
        "text": None if selection is None else _columns(selection, text),
        "anchors": None if selection is None else _anchors(selection, trace, audio),
    }


def _columns(selection: MethodSelection, indices: NDArray[np.int64]) -> dict[str, Any]:
    score = selection.score[indices].tolist()
    return {
        "kept": "".join("01"[kept] for kept in selection.kept[indices].astype(int).tolist()),
        "score": [float(f"{value:.4g}") if np.isfinite(value) else None for value in score],
        "rank": selection.rank[indices].tolist(),
        "kind": "".join(str(kind) for kind in selection.kind[indices].tolist()),
    }


def _anchors(selection: MethodSelection, trace: Trace, audio: NDArray[np.int64]) -> list[list[list[float]]] | None:
    """For each shown audio token: [frame, cell, share in percent] of its anchors, the highest share first."""
    attention = selection.anchor_attention
    if attention is None:
        return None
    row = {token: number for number, token in enumerate(attention.token.tolist())}
    frame, cell = trace.tokens.frame, cell_of(trace.tokens, trace, np.arange(len(trace.tokens)))
    anchors: list[list[list[float]]] = []
    for token in audio.tolist():
        pairs = zip(attention.anchors[row[token]], attention.share[row[token]], strict=True) if token in row else []
        anchors.append([[int(frame[a]), int(cell[a]), round(100 * float(share), 1)] for a, share in pairs if a >= 0])
    return anchors


def _evidence(evidence: TraceEvidence, trace: Trace, audio: NDArray[np.int64]) -> list[dict[str, Any]]:
    """[frame, cell] of every shape, positions among the shown audio tokens of every sound."""
    shown = {token: position for position, token in enumerate(audio.tolist())}
    events = []
    for event in evidence.events:
        if event.kind == "sound":
            where: list[Any] = [shown[token] for token in event.tokens.tolist() if token in shown]
        else:
            cell = cell_of(trace.tokens, trace, event.tokens)
            where = np.stack([trace.tokens.frame[event.tokens], cell], axis=1).tolist()
        events.append({"kind": event.kind, "name": event.name, "where": where})
    return events


def _wave(inspection: Inspection) -> dict[str, Any] | None:
    waveform, mel = inspection.media.waveform, inspection.mel
    if waveform is None or mel is None:
        return None
    low, high = waveform_envelope(waveform)
    return {
        "low": low,
        "high": high,
        "mel": _uri("image/png", encode_png(spectrogram_image(mel))),
        "seconds": inspection.media.audio_seconds,
    }


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
