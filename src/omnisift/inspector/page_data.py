"""What the page's script draws from: the trace without what is thinned out, with pictures and sound as data URIs."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnisift.inspector.audio import greys, outline, png
from omnisift.inspector.collect import Inspection
from omnisift.inspector.downsample import Downsampled
from omnisift.inspector.frames import jpegs
from omnisift.inspector.trace import KINDS, Evidence, Selected, Tokens, Trace
from omnisift.tokens import Modality

PICTURE_BYTES = 3_300_000
"""Most bytes of all pictures together; a third more as base64."""


def page_data(inspection: Inspection, thinned: Downsampled) -> dict[str, Any]:
    """JSON-ready. Cells count through a frame row by row, and ``video`` columns through the frames that are shown."""
    trace, media = inspection.trace, inspection.media
    cells, audio = cell_tokens(trace, thinned.frames), thinned.audio
    return {
        "seconds": max([trace.clip.seconds, *(chunk.end for chunk in trace.chunks)]),
        "grid": None if trace.grid is None else vars(trace.grid),
        "size": [trace.clip.width, trace.clip.height],
        "frames": list(thinned.frames),
        "pictures": [_uri("image/jpeg", file) for file in jpegs(media, thinned.frames, PICTURE_BYTES)],
        "chunks": [[chunk.start, chunk.end, chunk.video, chunk.audio] for chunk in trace.chunks],
        "sound": _sound(inspection),
        "audio": {
            "time": [round(value, 3) for value in trace.tokens.time[audio].tolist()],
            "chunk": trace.tokens.chunk[audio].tolist(),
            "seconds": trace.tokens.audio_seconds,
        },
        "kinds": KINDS,
        "methods": [
            {
                "name": asked.name,
                "label": asked.label,
                "merged": [] if asked.selected is None else list(asked.selected.merged),
                "video": None if asked.selected is None else _columns(asked.selected, cells),
                "audio": None if asked.selected is None else _columns(asked.selected, audio),
                "anchors": None if asked.selected is None else _anchors(asked.selected, trace, audio),
            }
            for asked in trace.methods
        ],
        "evidence": None if trace.evidence is None else _evidence(trace.evidence, trace, audio),
    }


def cell_tokens(trace: Trace, frames: tuple[int, ...]) -> NDArray[np.int64]:
    """[len(frames) * rows * columns]: the token of each cell of these frames."""
    if trace.grid is None:
        return np.zeros(0, np.int64)
    tokens = trace.tokens
    video = tokens.places(int(Modality.VIDEO))
    size = trace.grid.rows * trace.grid.columns
    table = np.empty(trace.grid.frames * size, np.int64)
    table[tokens.frame[video] * size + cell_of(tokens, trace, video)] = video
    return np.asarray(table.reshape(trace.grid.frames, size)[list(frames)].flatten())


def cell_of(tokens: Tokens, trace: Trace, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The cell of each video token in its frame, row by row."""
    columns = 0 if trace.grid is None else trace.grid.columns
    return np.asarray(tokens.row[places] * columns + tokens.column[places])


def _columns(selected: Selected, places: NDArray[np.int64]) -> dict[str, Any]:
    return {
        "kept": "".join("01"[kept] for kept in selected.kept[places].astype(int).tolist()),
        "score": [float(f"{value:.4g}") if np.isfinite(value) else None for value in selected.score[places].tolist()],
        "rank": selected.rank[places].tolist(),
        "kind": "".join(str(kind) for kind in selected.kind[places].tolist()),
    }


def _anchors(selected: Selected, trace: Trace, audio: NDArray[np.int64]) -> list[list[list[float]]] | None:
    """For each audio token that is shown: [frame, cell, share in percent] of the anchors, the highest first."""
    looks = selected.looks
    if looks is None:
        return None
    row = {token: number for number, token in enumerate(looks.token.tolist())}
    frame, cell = trace.tokens.frame, cell_of(trace.tokens, trace, np.arange(len(trace.tokens)))
    found: list[list[list[float]]] = []
    for token in audio.tolist():
        pairs = [] if token not in row else zip(looks.anchors[row[token]], looks.share[row[token]], strict=True)
        found.append([[int(frame[a]), int(cell[a]), round(100 * float(share), 1)] for a, share in pairs if a >= 0])
    return found


def _evidence(evidence: Evidence, trace: Trace, audio: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Cells of every shape as [frame, cell], places among the shown audio tokens of every sound."""
    place = {token: number for number, token in enumerate(audio.tolist())}
    events = []
    for event in evidence.events:
        if event.kind == "sound":
            where: list[Any] = [place[token] for token in event.tokens.tolist() if token in place]
        else:
            cell = cell_of(trace.tokens, trace, event.tokens)
            where = np.stack([trace.tokens.frame[event.tokens], cell], axis=1).tolist()
        events.append({"kind": event.kind, "name": event.name, "where": where})
    return events


def _sound(inspection: Inspection) -> dict[str, Any] | None:
    waveform, mel = inspection.media.waveform, inspection.mel
    if waveform is None or mel is None:
        return None
    low, high = outline(waveform)
    return {
        "low": low,
        "high": high,
        "mel": _uri("image/png", png(greys(mel))),
        "seconds": inspection.media.audio_seconds,
    }


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
