"""`Trace`: what the inspector records about one clip and question, typed, versioned, and JSON by `Trace.to_dict`.

Tokens are the video and audio tokens of the prompt in its order, then those of the clip's lines of text (subtitles);
other text is not counted. Everything per token is a column of that length. ``schema.json`` in this folder describes the
JSON; docs/inspector.md explains it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnisift.pipeline.report import Answer, Source
from omnisift.world import KeptEvidence

SCHEMA = "omnisift.trace"
VERSION = 1
"""Raised when a key is renamed, removed or changes its meaning; a new key does not raise it."""

MODALITIES = ("text", "video", "audio", "subtitle")
"""Indexed by `omnisift.tokens.Modality`."""
KINDS = ("", "spatial", "temporal", "learned", "selector", "method", "track")
"""What a score measures: nothing (no score), STVP's spatial or temporal saliency, a learned video score, the selector's
(VGAS) audio score, another method's own score, or that of the track which chooses among the tokens of lines."""


@dataclass(frozen=True)
class Grid:
    """How the video tokens of a clip are laid out: every frame has the same rows and columns of patches."""

    frames: int
    rows: int
    columns: int
    seconds: float
    """Duration of a frame."""


@dataclass(frozen=True)
class ClipTokens:
    """The ``N`` video and audio tokens of a clip, in prompt order, and behind them those of its lines of text."""

    modality: NDArray[np.int8]
    """[N]: values of `omnisift.tokens.Modality`."""
    time: NDArray[np.float32]
    """[N]: seconds since the start of the clip."""
    chunk: NDArray[np.int64]
    """[N]: index of the chunk; -1 for tokens that are never dropped."""
    frame: NDArray[np.int64]
    """[N]: index of the frame in the clip; -1 for audio and text."""
    row: NDArray[np.int64]
    """[N]: row of the patch in its frame; -1 for audio and text."""
    column: NDArray[np.int64]
    """[N]: column of the patch in its frame; -1 for audio and text."""
    audio_seconds: float
    """Duration of one audio token."""

    def __len__(self) -> int:
        return len(self.modality)

    def indices(self, modality: int) -> NDArray[np.int64]:
        """Indices of the tokens of one modality, in order."""
        return np.flatnonzero(self.modality == modality)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: columns as lists."""
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
    """Two consecutive frames and the audio that plays during them; or two seconds of compressed audio alone."""

    start: float
    """Seconds since the start of the clip."""
    end: float
    """Seconds since the start of the clip."""
    frames: tuple[int, ...]
    """Indices of its one or two frames; empty in audio alone."""
    video: int
    """Number of video tokens."""
    audio: int
    """Number of audio tokens."""
    text: int = 0
    """Number of tokens of the lines that begin in it."""


@dataclass(frozen=True)
class TraceLine:
    """A line of text of the clip."""

    start: float
    """Seconds since the start of the clip."""
    end: float
    """Seconds since the start of the clip."""
    pieces: tuple[str, ...]
    """What each of its tokens adds to the text; empty where a character needs further tokens."""
    tokens: NDArray[np.int64]
    """Indices of its tokens; empty where the prompt has no clip in which they could have a time."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"start": self.start, "end": self.end, "pieces": list(self.pieces), "tokens": self.tokens.tolist()}


@dataclass(frozen=True)
class AnchorAttention:
    """The video tokens that each audio token attends to most, in the selector's first layer."""

    token: NDArray[np.int64]
    """[A]: indices of the scored audio tokens."""
    anchors: NDArray[np.int64]
    """[A, T]: indices of video tokens by descending attention; -1 where a chunk has fewer than T."""
    share: NDArray[np.float32]
    """[A, T]: share of the audio token's attention, averaged over heads. A selector with guide "direct" attends from
    video to audio; there it is the share of the video token's attention that the audio token receives."""


@dataclass(frozen=True)
class MethodSelection:
    """What one method decided: the columns of its `Selection`, and values derived from them."""

    kept: NDArray[np.bool_]
    """[N]: True for kept tokens."""
    score: NDArray[np.float32]
    """[N]: higher scores stay; NaN without a score."""
    kind: NDArray[np.int8]
    """[N]: index into `KINDS`."""
    rank: NDArray[np.int64]
    """[N]: rank by score among the scored tokens of the same frame, or of the same chunk's audio or text; 1 is the
    highest, 0 means no score. Kept tokens come first among equal scores. Methods with a wider scope compare more of
    them."""
    merged: tuple[str, ...]
    """Modalities in which a kept embedding differs from its input, because dropped tokens were merged into it."""
    video_kept: tuple[int, ...]
    """Kept video tokens per chunk."""
    audio_kept: tuple[int, ...]
    """Kept audio tokens per chunk."""
    anchor_attention: AnchorAttention | None
    """None for methods without a selector that attends to the video."""
    text_kept: tuple[int, ...] = ()
    """Kept tokens of lines per chunk."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: columns as lists, None for NaN."""
        return {
            "kept": self.kept.tolist(),
            "score": _numbers(self.score, 9),
            "kind": [KINDS[value] for value in self.kind],
            "rank": self.rank.tolist(),
            "merged": list(self.merged),
            "video_kept": list(self.video_kept),
            "audio_kept": list(self.audio_kept),
            "text_kept": list(self.text_kept),
            "anchors": None if self.anchor_attention is None else _anchors(self.anchor_attention),
        }


@dataclass(frozen=True)
class Event:
    """A shape on screen or a sound that proves the answer."""

    kind: str
    """``shape`` or ``sound``."""
    name: str
    tokens: NDArray[np.int64]
    """Indices of its tokens."""


@dataclass(frozen=True)
class TraceEvidence:
    """The ground truth of a question about a generated clip."""

    setting: str
    """Name in `omnisift.world.SETTINGS`."""
    type: str
    """One of `omnisift.world.QUESTION_TYPES`."""
    answer: str
    """The true answer."""
    events: tuple[Event, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        events = [{"kind": e.kind, "name": e.name, "tokens": e.tokens.tolist()} for e in self.events]
        return {"setting": self.setting, "type": self.type, "answer": self.answer, "events": events}


@dataclass(frozen=True)
class MethodTrace:
    """One method's answer and decision. The first of a `Trace` reads every token."""

    name: str
    """The name the caller gave; ``none`` for all tokens."""
    answer: Answer
    selection: MethodSelection | None
    """None if every token was read: by ``none``, and in audio without video that is not compressed."""
    kept_evidence: KeptEvidence | None
    """None where no evidence is known."""

    @property
    def label(self) -> str:
        """Label in tables and figures."""
        return "all tokens" if self.name == "none" else self.answer.report.compressor

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the keys of `Answer.to_dict` that differ by method, ``evidence`` and ``selection``."""
        # Here ``retain`` is the request in words, as in version 1.
        answer = self.answer.to_dict() | {"retain": self.answer.report.retain}
        common = (
            "source",
            "model",
            "notices",
            "retain_video",
            "retain_audio",
            "retain_text",
            "token_budget",
            "compress_audio",
        )
        return {
            "name": self.name,
            "label": self.label,
            **{key: value for key, value in answer.items() if key not in common},
            "evidence": None if self.kept_evidence is None else self.kept_evidence.to_dict(),
            "selection": None if self.selection is None else self.selection.to_dict(),
        }


@dataclass(frozen=True)
class Trace:
    """One clip and question, answered by one or more methods."""

    model: str
    question: str
    clip: Source
    grid: Grid | None
    """None without video."""
    tokens: ClipTokens
    chunks: tuple[Chunk, ...]
    methods: tuple[MethodTrace, ...]
    evidence: TraceEvidence | None
    notices: tuple[str, ...]
    lines: tuple[TraceLine, ...] = ()
    """Lines of text, in order of their start; empty unless subtitles were asked for."""

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
            "lines": [line.to_dict() for line in self.lines],
        }


def _anchors(attention: AnchorAttention) -> list[dict[str, Any]]:
    """One entry per audio token, without the padding of chunks with few anchors."""
    entries = []
    for token, anchors, share in zip(attention.token.tolist(), attention.anchors, attention.share, strict=True):
        count = int((anchors >= 0).sum())
        entries.append({"token": token, "anchors": anchors[:count].tolist(), "share": _numbers(share[:count], 6)})
    return entries


def _numbers(values: NDArray[np.float32], digits: int) -> list[float | None]:
    """Floats of ``digits`` significant digits (9 restore a float32 exactly), None for NaN and infinities."""
    return [float(f"{value:.{digits}g}") if np.isfinite(value) else None for value in values.tolist()]
