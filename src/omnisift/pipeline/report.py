"""What comes back from a question: the text, and what it cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Tokens:
    """Token counts of one prompt, before and after compression."""

    video: int
    video_kept: int
    audio: int
    audio_kept: int
    prompt: int
    """All tokens of the prompt: text, video and audio, uncompressed."""
    generated: int

    @property
    def prompt_kept(self) -> int:
        """Tokens that the language model read."""
        return self.prompt - (self.video - self.video_kept) - (self.audio - self.audio_kept)

    @property
    def retained_ratio(self) -> float:
        """Kept share of the video and audio tokens together; 1.0 where there are none."""
        total = self.video + self.audio
        return (self.video_kept + self.audio_kept) / total if total else 1.0


@dataclass(frozen=True)
class Seconds:
    """Wall-clock seconds of each stage, on this machine."""

    read: float
    """Decode the file and scale the pictures."""
    process: float
    """Patches, mel spectrogram, prompt: the Hugging Face processor."""
    encode_video: float
    """The vision encoder."""
    encode_audio: float
    compress: float
    prefill: float
    """First forward of the language model, without encoders and compression."""
    decode: float

    @property
    def encode(self) -> float:
        """Vision and audio encoders."""
        return self.encode_video + self.encode_audio

    @property
    def total(self) -> float:
        """Sum of all stages."""
        return self.read + self.process + self.encode + self.compress + self.prefill + self.decode


@dataclass(frozen=True)
class Source:
    """What was seen of the media file."""

    path: str
    seconds: float
    images: int
    fps: float
    """Real sampled images per second, after any cap."""
    width: int
    height: int
    has_video: bool
    has_audio: bool
    audio_seconds: float


@dataclass(frozen=True)
class Report:
    """How an answer was made: model, compressor, tokens, seconds, memory, notices."""

    model: str
    compressor: str
    """Its label: ``omnisift+time`` where the selector has our time embedding, ``none`` if every token was read."""
    retain: str
    """What was asked for, in words, for example ``0.25`` or ``video 0.23, audio 0.5``."""
    tokens: Tokens
    seconds: Seconds
    source: Source
    peak_memory_bytes: int | None
    """Peak of the device's allocations, on a CPU the peak resident size of the whole process; None where unknown."""
    notices: tuple[str, ...] = ()

    @property
    def retained_ratio(self) -> float:
        """Kept share of the video and audio tokens together."""
        return self.tokens.retained_ratio


@dataclass(frozen=True)
class Answer:
    """The model's answer and its report. ``str(answer)`` is the text."""

    text: str
    report: Report

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """One JSON-ready object: ``answer`` and ``retained_ratio`` first, then the report's fields."""
        report = asdict(self.report)
        report["tokens"]["prompt_kept"] = self.report.tokens.prompt_kept
        report["seconds"] |= {"encode": self.report.seconds.encode, "total": self.report.seconds.total}
        return {"answer": self.text, "retained_ratio": round(self.report.retained_ratio, 6), **report}
