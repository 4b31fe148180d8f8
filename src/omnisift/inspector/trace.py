"""`Trace`: all that the inspector knows of a clip, typed, versioned, and JSON by `Trace.to_dict`.

Tokens are numbered as they stand in the prompt, video and audio together, text left out. Everything that belongs to
tokens is a column of that length. ``schema.json`` beside this file describes the JSON; docs/inspector.md explains it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnisift.pipeline.report import Answer, Source

SCHEMA = "omnisift.trace"
VERSION = 1
"""Raised when a key is renamed, removed or means something else; new keys alone do not raise it."""

MODALITIES = ("text", "video", "audio")
"""By value of `omnisift.tokens.Modality`."""
KINDS = ("", "spatial", "temporal", "learned", "selector", "method")
"""What a score is: none; STVP's saliency in space or in time; a learned one of the picture; the selector's (VGAS) of
the sound; another method's own."""


@dataclass(frozen=True)
class Grid:
    """How video tokens lie in the picture. All frames of a clip are of one size."""

    frames: int
    rows: int
    columns: int
    seconds: float
    """Length of a frame."""


@dataclass(frozen=True)
class Tokens:
    """``N`` video and audio tokens in the order of the prompt."""

    modality: NDArray[np.int8]
    """[N]: values of `omnisift.tokens.Modality`."""
    time: NDArray[np.float32]
    """[N]: seconds since the start of the clip."""
    chunk: NDArray[np.int64]
    """[N]: number of the chunk; -1 where nothing may be dropped."""
    frame: NDArray[np.int64]
    """[N]: number of the frame in the clip; -1 for audio. ``row`` and ``column`` likewise."""
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    audio_seconds: float
    """How long one audio token lasts."""

    def __len__(self) -> int:
        return len(self.modality)

    def places(self, modality: int) -> NDArray[np.int64]:
        """Numbers of the tokens of one modality, in order."""
        return np.flatnonzero(self.modality == modality)

    def to_dict(self) -> dict[str, Any]:
        """Columns as lists."""
        return {
            "modality": [MODALITIES[value] for value in self.modality],
            "time": _numbers(self.time, 6),
            "chunk": self.chunk.tolist(),
            "frame": self.frame.tolist(),
            "row": self.row.tolist(),
            "column": self.column.tolist(),
            "audio_seconds": self.audio_seconds,
        }


@dataclass(frozen=True)
class Chunk:
    """Two frames and the sound of their time."""

    start: float
    """Seconds; ``end`` likewise."""
    end: float
    frames: tuple[int, ...]
    """Numbers of its one or two frames."""
    video: int
    """Video tokens."""
    audio: int


@dataclass(frozen=True)
class AnchorAttention:
    """Which visual anchors the audio tokens attended to most, in the selector's first layer."""

    token: NDArray[np.int64]
    """[A]: numbers of the audio tokens that were scored."""
    anchors: NDArray[np.int64]
    """[A, T]: numbers of video tokens, the most attended first; -1 where a chunk has fewer."""
    share: NDArray[np.float32]
    """[A, T]: part of the token's attention, mean over heads. With a "direct" selector anchors are the ones who look:
    then the part of the anchor's attention that the token gets."""


@dataclass(frozen=True)
class Selected:
    """What one method decided: the columns of its `Selection`, and what follows from them."""

    kept: NDArray[np.bool_]
    """[N]."""
    score: NDArray[np.float32]
    """[N]: higher stays; NaN where the method has none."""
    kind: NDArray[np.int8]
    """[N]: index into `KINDS`."""
    rank: NDArray[np.int64]
    """[N]: place by score among the scored tokens of its frame, or of its chunk's sound; 1 is the highest, 0 no score.
    Of equal scores a kept one comes first. Methods with a wider scope let more tokens compete than these."""
    merged: tuple[str, ...]
    """Modalities whose kept tokens are other than they were: they carry what dropped ones held."""
    video_kept: tuple[int, ...]
    """By chunk; ``audio_kept`` likewise."""
    audio_kept: tuple[int, ...]
    looks: AnchorAttention | None
    """None without a selector that looks at the picture."""

    def to_dict(self) -> dict[str, Any]:
        """Columns as lists, None for NaN."""
        return {
            "kept": self.kept.tolist(),
            "score": _numbers(self.score, 9),
            "kind": [KINDS[value] for value in self.kind],
            "rank": self.rank.tolist(),
            "merged": list(self.merged),
            "video_kept": list(self.video_kept),
            "audio_kept": list(self.audio_kept),
            "anchors": None if self.looks is None else _looks(self.looks),
        }


@dataclass(frozen=True)
class Recall:
    """How much of the evidence one method kept."""

    tokens: int
    """Evidence tokens kept, of ``tokens_all``."""
    tokens_all: int
    events: int
    """Events of which at least one token was kept, of ``events_all``."""
    events_all: int

    def to_dict(self) -> dict[str, Any]:
        """The counts and both shares, None where there is no evidence to keep."""
        return asdict(self) | {
            "token_recall": round(self.tokens / self.tokens_all, 6) if self.tokens_all else None,
            "event_recall": round(self.events / self.events_all, 6) if self.events_all else None,
        }


@dataclass(frozen=True)
class Event:
    """Something that proves the answer: a shape on screen or a sound."""

    kind: str
    """``shape`` or ``sound``."""
    name: str
    tokens: NDArray[np.int64]


@dataclass(frozen=True)
class Evidence:
    """The ground truth of a question about a clip of the invented world."""

    setting: str
    """Name in `omnisift.world.SETTINGS`."""
    type: str
    """One of `omnisift.world.QUESTION_TYPES`."""
    answer: str
    """The true one."""
    events: tuple[Event, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        events = [{"kind": e.kind, "name": e.name, "tokens": e.tokens.tolist()} for e in self.events]
        return {"setting": self.setting, "type": self.type, "answer": self.answer, "events": events}


@dataclass(frozen=True)
class Asked:
    """One method asked about the clip; the first of a trace reads every token."""

    name: str
    """As it was named, ``none`` for all tokens."""
    answer: Answer
    selected: Selected | None
    """None if every token was read: by ``none``, and in sound without picture."""
    recall: Recall | None
    """None where no evidence is known."""

    @property
    def label(self) -> str:
        """What tables call it."""
        return "all tokens" if self.name == "none" else self.answer.report.compressor

    def to_dict(self) -> dict[str, Any]:
        """The answer's own keys, but what is common to the trace, and ``selection``."""
        said = self.answer.to_dict()
        said["retain"] = self.answer.report.retain
        common = ("source", "model", "notices", "retain_video", "retain_audio")
        return {
            "name": self.name,
            "label": self.label,
            **{key: value for key, value in said.items() if key not in common},
            "evidence": None if self.recall is None else self.recall.to_dict(),
            "selection": None if self.selected is None else self.selected.to_dict(),
        }


@dataclass(frozen=True)
class Trace:
    """One clip and question under one or more methods."""

    model: str
    question: str
    clip: Source
    grid: Grid | None
    """None without picture."""
    tokens: Tokens
    chunks: tuple[Chunk, ...]
    methods: tuple[Asked, ...]
    evidence: Evidence | None
    notices: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """One JSON-ready object, as ``schema.json`` describes it."""
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "model": self.model,
            "question": self.question,
            "clip": asdict(self.clip),
            "grid": None if self.grid is None else asdict(self.grid),
            "tokens": self.tokens.to_dict(),
            "chunks": [asdict(chunk) for chunk in self.chunks],
            "methods": [method.to_dict() for method in self.methods],
            "evidence": None if self.evidence is None else self.evidence.to_dict(),
            "notices": list(self.notices),
        }


def _looks(looks: AnchorAttention) -> list[dict[str, Any]]:
    rows = zip(looks.token.tolist(), looks.anchors.tolist(), _rows(looks.share), strict=True)
    return [
        {"token": token, "anchors": [a for a in anchors if a >= 0], "share": share[: sum(a >= 0 for a in anchors)]}
        for token, anchors, share in rows
    ]


def _rows(values: NDArray[np.float32]) -> list[list[float | None]]:
    return [_numbers(row, 6) for row in values]


def _numbers(values: NDArray[np.float32], digits: int) -> list[float | None]:
    """Floats of so many significant digits (9 give back a float32 exactly), None for NaN and infinities."""
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in values.tolist()]
