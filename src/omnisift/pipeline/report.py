"""The answer to a question, and the report of what it cost."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from omnisift.budget import Budget
from omnisift.media import Media

NANO_NOTICE = (
    "nano only understands generated clips of coloured shapes and short sounds; its answer about this clip means "
    "nothing. For real clips name a full-size model: --model Qwen/Qwen2.5-Omni-7B"
)


@dataclass(frozen=True)
class Tokens:
    """Token counts of one prompt, before and after compression."""

    video: int
    video_kept: int
    audio: int
    audio_kept: int
    prompt: int
    """All tokens of the prompt before compression: text, video and audio."""
    generated: int
    text: int = 0
    """Tokens of lines of text, in clips that have some."""
    text_kept: int = 0

    @property
    def prompt_kept(self) -> int:
        """Number of tokens that the language model read."""
        return self.prompt - (self.in_clips - self.in_clips_kept)

    @property
    def by_kind(self) -> tuple[tuple[str, int, int], ...]:
        """Name, count and kept count of ``video``, ``audio``, and ``text`` in clips with lines."""
        media = (("video", self.video, self.video_kept), ("audio", self.audio, self.audio_kept))
        return (*media, ("text", self.text, self.text_kept)) if self.text else media

    @property
    def kinds(self) -> str:
        """What `in_clips` counts, in words: ``video and audio``, or ``video, audio and text``."""
        return kinds_in_words(has_text=self.text > 0)

    @property
    def in_clips(self) -> int:
        """Video and audio tokens, and those of lines."""
        return self.video + self.audio + self.text

    @property
    def in_clips_kept(self) -> int:
        """Those of `in_clips` that were kept."""
        return self.video_kept + self.audio_kept + self.text_kept

    @property
    def retained_ratio(self) -> float:
        """Kept share of the video and audio tokens, and those of lines, together; 1.0 where there are none."""
        return self.in_clips_kept / self.in_clips if self.in_clips else 1.0

    def to_dict(self) -> dict[str, int]:
        """The counts with `prompt_kept`, JSON-ready; those of lines only in clips that have some."""
        counts = asdict(self) | {"prompt_kept": self.prompt_kept}
        return {name: count for name, count in counts.items() if self.text or name not in ("text", "text_kept")}


@dataclass(frozen=True)
class Seconds:
    """Wall-clock seconds of each stage, on this machine."""

    read: float
    """Decode the file and scale the frames."""
    process: float
    """Run the Hugging Face processor: patches, mel spectrogram, token ids."""
    encode_video: float
    """Run the vision encoder."""
    encode_audio: float
    """Run the audio encoder."""
    compress: float
    """Choose the tokens that stay."""
    prefill: float
    """First forward of the language model, without encoders and compression."""
    decode: float
    """Generate the tokens after the first."""

    @property
    def encode(self) -> float:
        """Vision and audio encoder together."""
        return self.encode_video + self.encode_audio

    @property
    def total(self) -> float:
        """Sum of all stages."""
        return self.read + self.process + self.encode + self.compress + self.prefill + self.decode


@dataclass(frozen=True)
class Source:
    """What was read of the media file."""

    path: str
    seconds: float
    images: int
    """Number of sampled frames."""
    fps: float
    """Sampled frames per second, after any cap."""
    width: int
    height: int
    has_video: bool
    has_audio: bool
    audio_seconds: float


@dataclass(frozen=True, repr=False)
class Report:
    """How an answer was made: model, method, tokens, seconds, memory, notices."""

    model: str
    compressor: str
    """Label of the method: ``omnisift+time`` for a selector with a time embedding, ``none`` for no compression."""
    budget: Budget | None
    """The requested budget; None if every token was kept."""
    tokens: Tokens
    seconds: Seconds
    source: Source
    peak_memory_bytes: int | None
    """Peak of the device's allocations, on a CPU the peak resident size of the process; None where unknown."""
    notices: tuple[str, ...] = ()
    """What limits the answer, the most important first."""
    compressor_reason: str = ""
    """Why this method: ``default``, or ``default:`` and what it depends on; empty if it was named."""
    encoded_tokens: int | None = None
    """Of ``tokens.video``, those that the vision encoder computed, with ``retain_encoded`` or ``still_threshold``; None
    if it computed all."""
    cached_tokens: int = 0
    """Of ``tokens.prompt_kept``, those whose keys and values the encoded clip held from an earlier question, so that
    encoders, compressor and language model did not run for them."""

    @property
    def retain(self) -> str:
        """The requested budget as text, for example ``0.25`` or ``4096 tokens``; ``all`` without one."""
        return "all" if self.budget is None else self.budget.words

    @property
    def method(self) -> str:
        """The method and why it was chosen, for example ``resift (default)``."""
        return with_reason(self.compressor, self.compressor_reason)

    @property
    def retained_ratio(self) -> float:
        """Kept share of the video and audio tokens together."""
        return self.tokens.retained_ratio

    def __repr__(self) -> str:
        tokens = self.tokens
        text = f", {tokens.text_kept} of {tokens.text} text" if tokens.text else ""
        return (
            f"Report({self.model}, {self.method}, retain {self.retain}: kept {tokens.video_kept} of {tokens.video} "
            f"video{text} and {tokens.audio_kept} of {tokens.audio} audio tokens, {self.seconds.total:.2f} s)"
        )

    def _repr_html_(self) -> str:
        """Notices and a table of tokens, for notebooks."""
        tokens, seconds = self.tokens, self.seconds
        counts = [
            *tokens.by_kind,
            ("prompt", tokens.prompt, tokens.prompt_kept),
        ]
        rows = "".join(
            f"<tr><td>{name}</td><td>{total}</td><td>{kept}</td><td>{kept / max(1, total):.1%}</td></tr>"
            for name, total, kept in counts
        )
        notices = "".join(f"<p><em>Note: {escape(notice)}</em></p>" for notice in self.notices)
        method = f"{self.model}, {self.method}, retain {self.retain}: {seconds.total:.2f} s"
        return (
            f"{notices}<table><tr><th>tokens</th><th>before</th><th>after</th><th>kept</th></tr>{rows}</table>"
            f"<p>{escape(method)}</p>"
        )

    def to_dict(self) -> dict[str, Any]:
        """One JSON-ready object, with the fields of the budget, where ``token_budget`` is its number of tokens.

        ``tokens`` are the measured counts, of lines of text where the clip has some; ``encoded_tokens`` is left out
        where all were encoded.
        """
        report = asdict(self)
        budget = report.pop("budget") or asdict(Budget(retain=1.0))
        budget["token_budget"] = budget.pop("tokens")
        report["tokens"] = self.tokens.to_dict()
        if self.encoded_tokens is None:
            del report["encoded_tokens"]
        report["seconds"] |= {"encode": self.seconds.encode, "total": self.seconds.total}
        first = {name: report.pop(name) for name in ("model", "compressor", "compressor_reason")}
        return {**first, **budget, **report}


@dataclass(frozen=True, repr=False)
class Answer:
    """The model's answer and its report. ``str(answer)`` is the text."""

    text: str
    """What the model generated; for a model that thinks first, what came after its thoughts."""
    report: Report
    thinking: str = ""
    """What a model that thinks first wrote before its answer."""

    def __str__(self) -> str:
        return self.text

    @property
    def short_text(self) -> str:
        """The text for display, cut where a phrase repeats until the end."""
        return cut_repetition(self.text)

    def __repr__(self) -> str:
        text = self.short_text if len(self.short_text) <= 80 else self.short_text[:79] + "…"
        tokens, notices = self.report.tokens, len(self.report.notices)
        noted = f", {notices} notice{'s' if notices > 1 else ''}" if notices else ""
        return (
            f"Answer({text!r}, kept {tokens.in_clips_kept} of {tokens.in_clips} {tokens.kinds} tokens, "
            f"{self.report.seconds.total:.2f} s{noted})"
        )

    def _repr_html_(self) -> str:
        """Notices, the text and the kept tokens, for notebooks."""
        notices = "".join(f"<p><em>Note: {escape(notice)}</em></p>" for notice in self.report.notices)
        tokens = self.report.tokens
        counts = ", ".join(f"{name} {total} → {kept}" for name, total, kept in tokens.by_kind)
        kept = f"{self.report.method}, retain {self.report.retain}: {counts} tokens, {self.report.seconds.total:.2f} s"
        return f"{notices}<p><strong>{escape(self.short_text)}</strong></p><p><small>{escape(kept)}</small></p>"

    def to_dict(self) -> dict[str, Any]:
        """One JSON-ready object: ``answer`` and ``retained_ratio`` first, then the report's fields."""
        ratio = round(self.report.retained_ratio, 6)
        return {"answer": self.text, "retained_ratio": ratio, **self.report.to_dict()}


def kinds_in_words(*, has_text: bool) -> str:
    """The kinds of tokens that a budget counts: ``video and audio``, or ``video, audio and text``."""
    return "video, audio and text" if has_text else "video and audio"


def with_reason(method: str, reason: str) -> str:
    """A method's name with the reason for it in brackets, if there is one."""
    return f"{method} ({reason})" if reason else method


def cut_repetition(text: str) -> str:
    """``text`` up to the first copy of a phrase that repeats until the end, with an ellipsis.

    A phrase counts as repeating from four copies and eight words on, so that short answers stay as they are.
    """
    words = re.findall(r"\S+", text)
    for period in range(1, len(words) // 4 + 1):
        # Count words at the end that equal the word one period before; the last one may be unfinished.
        repeated = 0
        while repeated < len(words) - period:
            word, earlier = words[-1 - repeated], words[-1 - repeated - period]
            if word != earlier and not (repeated == 0 and earlier.startswith(word)):
                break
            repeated += 1
        if repeated >= 3 * period and repeated + period >= 8:
            return " ".join(words[: len(words) - repeated]) + " …"
    return text


def source_of(media: Media) -> Source:
    """What was read of the file."""
    count, height, width = (0, 0, 0) if media.images is None else media.images.shape[:3]
    return Source(
        path=str(media.path),
        seconds=media.seconds,
        images=count,
        fps=media.fps,
        width=width,
        height=height,
        has_video=media.has_video,
        has_audio=media.has_audio,
        audio_seconds=media.audio_seconds,
    )


def notices_of(media: Media, *, is_nano: bool, keeps_audio: bool, can_compress: bool = True) -> tuple[str, ...]:
    """What limits an answer about this clip, the most important first.

    Args:
        media: the clip.
        is_nano: whether the bundled model answers.
        keeps_audio: whether a compressor is attached that keeps audio outside a video in full.
        can_compress: whether the engine could compress it.
    """
    notices = []
    if is_nano and not media.tags.get("comment", "").startswith("omnisift world"):
        notices.append(NANO_NOTICE)
    notices += media.warnings
    if keeps_audio and not media.has_video:
        remedy = "; --compress-audio (compress_audio=True) compresses it" if can_compress else ""
        notices.append(f"audio outside a video is kept in full{remedy}")
    return tuple(notices)
