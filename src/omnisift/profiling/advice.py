"""`advise`: frames per second and pixels for a clip and a number of tokens, from what the benchmark measured.

The measured table is ``frames.json`` beside this file. It is made of the committed results, and a test compares both.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omnisift.budget import Budget, Counts
from omnisift.config import ReadOptions
from omnisift.errors import BudgetError, UsageError
from omnisift.media import MediaFile, read
from omnisift.models import adapter_class
from omnisift.pipeline.clip_format import frame_limits
from omnisift.pipeline.loading import read_processor
from omnisift.pipeline.model_source import find_model
from omnisift.profiling.shape import PromptShape, prompt_shape, token_side
from omnisift.profiling.sizes import NAMES, host_config
from omnisift.utils.parsing import is_text, shown

TABLE = Path(__file__).with_name("frames.json")
"""What was measured; `omnisift.lab.benchmark.results_frames` writes it."""
_USUAL_FPS = ReadOptions.fps
_LEAST = 2.0
"""Fewest tokens per frame and chunk of audio that are recommended, as few as were measured."""
_SPEECH = 2.5
"""Audio tokens per second that clips with speech need, on validation clips (docs/budgets.md)."""
_NEAR = 1.25
"""A clip that is longer than the longest measured one, or shorter than the shortest, by more is extrapolated."""
_ANY = 2**30
"""No limit on the number of images."""


@dataclass(frozen=True)
class MeasuredSampling:
    """One way to read the measured clips at one number of tokens."""

    fps: float
    """Images per second."""
    pixels: float
    """Share of the pixels of an image."""
    all_tokens: float
    """Percent of the questions answered with all tokens."""
    accuracy: float
    """Percent of the questions answered with the tokens that were kept."""
    minus_best: tuple[float, float, float]
    """Paired difference in points from the most accurate one, with its 95 % interval."""


@dataclass(frozen=True)
class Advice:
    """How to read a clip for a number of tokens, and what that rests on."""

    clip: str
    seconds: float
    """Length of the video."""
    model: str
    tokens: int
    """Tokens to keep."""
    fps: float
    """Recommended images per second."""
    max_frames: int
    """Limit on the number of images that the clip needs."""
    max_pixels: int | None
    """Recommended pixels per image; None means the reader's own limit."""
    images: int
    frame_tokens: int
    """Video tokens of a frame, which covers two images."""
    video_tokens: int
    """Video tokens before compression."""
    audio_tokens: int
    video_kept: int
    """Video tokens that stay: the split that ``tokens`` gives."""
    audio_kept: int
    share: float
    """``tokens`` as a share of all tokens at two images per second and all pixels."""
    measured_share: float
    """The nearest share that was measured."""
    measured: tuple[MeasuredSampling, ...]
    """All samplings that were measured at this share, the best first."""
    rests_on: str
    """World, backbone, length and number of the measured clips."""
    notes: tuple[str, ...]
    """Every respect in which this clip is outside of what was measured."""

    @property
    def reading(self) -> dict[str, Any]:
        """Keyword arguments of `omnisift.Pipeline.ask` and `omnisift.inputs`."""
        return {"fps": self.fps, "max_frames": self.max_frames, "max_pixels": self.max_pixels}

    @property
    def options(self) -> str:
        """Options of every command that reads clips."""
        parts = [f"--fps {self.fps:g}"]
        parts += [f"--max-frames {self.max_frames}"] if self.max_frames != ReadOptions.max_frames else []
        parts += [f"--max-pixels {self.max_pixels}"] if self.max_pixels is not None else []
        return " ".join([*parts, f"--tokens {self.tokens}"])

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**asdict(self), "options": self.options}


@dataclass(frozen=True)
class _Host:
    """What decides how large images are."""

    config: Any
    lowest: int | None = None
    """Fewest pixels of an image by the model's own processor; None for the family's."""
    highest: int | None = None

    @classmethod
    def of(cls, model: str) -> _Host:
        """Read the configuration of a model, and its processor where there is one."""
        if not is_text(model):
            raise UsageError(f"model is a size, nano, a checkpoint folder or a hub id; got {shown(model)}")
        if model in NAMES:
            return cls(host_config(model))
        source = find_model(model)
        # A limit on the clip as a whole belongs to the family, which `prompt_shape` knows.
        if adapter_class(source.model_type).max_clip_pixels is not None:
            return cls(source.config)
        processor = read_processor(source.source, local_files_only=source.local_files_only)
        return cls(source.config, *frame_limits(processor, None))


@dataclass(frozen=True)
class _Clip:
    """A clip as a host sees it."""

    seconds: float
    height: int
    width: int
    audio: bool
    host: _Host

    def shape(self, fps: float, pixels: float = 1.0) -> PromptShape:
        """The size of its prompt, without a limit on the number of images."""
        return prompt_shape(
            self.seconds,
            self.height,
            self.width,
            config=self.host.config,
            fps=fps,
            max_frames=_ANY,
            max_pixels=self.host.highest if pixels == 1 else self.max_pixels(pixels),
            min_pixels=self.host.lowest,
            audio=self.audio,
        )

    def max_pixels(self, share: float) -> int | None:
        """``max_pixels`` for a share of the pixels that an image has by default; at least one token."""
        if share == 1:
            return None
        whole, side = self.shape(_USUAL_FPS), token_side(self.host.config)
        return max(side**2, math.floor(share * whole.height * whole.width * side**2))


def advise(clip: MediaFile, tokens: int, *, model: str = "nano") -> Advice:
    """Recommend frames per second and pixels for a clip of which a number of tokens is kept.

    The recommendation is the most accurate sampling of generated clips at about the same share of all tokens, as the
    benchmark measured it with a small model; or two images per second and all pixels, where these are within chance of
    it. No full-size model was measured. What lies outside of the measurement is said in ``notes``.

    Args:
        clip: a media file with video, or a file object that was opened for reading bytes and can seek.
        tokens: video and audio tokens to keep.
        model: the model that will read the clip: a size such as ``7b`` or ``qwen3-vl-8b``, ``nano``, a checkpoint
            folder, or a hub id. Only its configuration is read.

    Returns:
        The advice.

    Raises:
        MediaError: the file can't be read or has no video.
        BudgetError: ``tokens`` is no whole number above 0.
        UsageError: there is no such model, or the clip is not a file.
        CheckpointError: the model's configuration is broken.
        UnsupportedModel: the model is of another family.
    """
    if tokens is None:
        raise BudgetError("tokens is the number of tokens to keep of the clip, got None; give a whole number above 0")
    budget = Budget(tokens=tokens)
    host = _Host.of(model)
    # Two images at their own size tell the size; the length and the audio are read as for a question.
    media = read(clip, max_frames=2, require_video=True, factor=1, min_pixels=1, max_pixels=8192 * 4320)
    assert media.images is not None
    height, width = media.images.shape[1:3]
    seen = _Clip(media.video_seconds, height, width, media.has_audio, host)
    return _advice(str(media.path), model, seen, budget)


def _advice(name: str, model: str, clip: _Clip, budget: Budget) -> Advice:
    tokens, usual = budget.tokens or 0, clip.shape(_USUAL_FPS)
    share = tokens / (usual.video + usual.audio)
    length, level = _nearest(clip.seconds, share)
    ranked = sorted((_sampling(each) for each in level["samplings"]), key=lambda each: -each.accuracy)
    fps, pixels, lowered = _affordable(clip, tokens, ranked)
    shape = clip.shape(fps, pixels)
    counts = budget.counts(shape.chunks())
    images, video_kept, audio_kept = 2 * shape.frames, *_kept(counts)
    return Advice(
        clip=name,
        seconds=round(clip.seconds, 3),
        model=model,
        tokens=tokens,
        fps=fps,
        max_frames=max(images, ReadOptions.max_frames),
        max_pixels=clip.max_pixels(pixels),
        images=images,
        frame_tokens=shape.height * shape.width,
        video_tokens=shape.video,
        audio_tokens=shape.audio,
        video_kept=video_kept,
        audio_kept=audio_kept,
        share=share,
        measured_share=level["share"],
        measured=tuple(ranked),
        rests_on=_rests_on(length),
        notes=(*_notes(clip, share, shape, lowered), *_speech(clip, tokens, shape, audio_kept)),
    )


def _affordable(clip: _Clip, tokens: int, ranked: list[MeasuredSampling]) -> tuple[float, float, str]:
    """The best sampling of which ``tokens`` are enough; images per second, pixels, and why it isn't the best one."""

    def per_segment(fps: float) -> float:
        frames = max(1.0, clip.seconds * fps / 2)
        return tokens / (frames + (math.ceil(frames / 2) if clip.audio else 0))

    # A rate and size that no other beats beyond chance stay those that models are trained at.
    usual = [each for each in ranked if (each.fps, each.pixels) == (_USUAL_FPS, 1) and each.minus_best[2] >= 0]
    wanted = [*usual, *ranked]
    fitting = [each for each in wanted if per_segment(each.fps) >= _LEAST]
    best = wanted[0]
    if fitting:
        chosen = fitting[0]
        why = "" if chosen is best else f"{tokens} tokens are too few for the best, {best.fps:g} frames per second"
        return chosen.fps, chosen.pixels, why
    lowest = min(each.fps for each in ranked)
    # Two images are the fewest that a clip can have.
    fps = max(float(f"{lowest * per_segment(lowest) / _LEAST:.2g}"), float(f"{2 / clip.seconds:.6g}"))
    return (
        fps,
        1.0,
        f"{fps:g} frames per second are fewer than were measured, since {tokens} tokens are too few for more",
    )


def _nearest(seconds: float, share: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """The measured length and, of it, the measured share of the tokens that are nearest, by their ratio."""
    length = min(_table()["lengths"], key=lambda each: abs(math.log(each["seconds"] / seconds)))
    return length, min(length["levels"], key=lambda each: abs(math.log(each["share"] / share)))


def _sampling(values: dict[str, Any]) -> MeasuredSampling:
    return MeasuredSampling(**{**values, "minus_best": tuple(values["minus_best"])})


def _rests_on(length: dict[str, Any]) -> str:
    return (
        f"{length['clips']} generated clips of {length['seconds']} s (world {length['setting']}), method "
        f"{_table()['method']}, the benchmark's backbone {length['backbone']} of nano's size, which was trained at two "
        f"frames per second and all pixels, where it answers {length['all_tokens']:.1f} % of the questions with all "
        "tokens; no full-size model was measured"
    )


def _notes(clip: _Clip, share: float, shape: PromptShape, lowered: str) -> list[str]:
    """Every respect in which a clip is outside of what was measured."""
    lengths = [each["seconds"] for each in _table()["lengths"]]
    shares = [level["share"] for each in _table()["lengths"] for level in each["levels"]]
    notes = []
    if not min(lengths) / _NEAR <= clip.seconds <= max(lengths) * _NEAR:
        measured = " and ".join(f"{each} s" for each in lengths)
        notes.append(f"extrapolated: the clip has {clip.seconds:.1f} s, clips of {measured} were measured")
    if share >= 1:
        notes.append("extrapolated: at two frames per second the clip has no more tokens than that, and all are kept")
    elif not min(shares) <= share <= max(shares):
        measured = f"{100 * min(shares):g} to {100 * max(shares):g} %"
        notes.append(f"extrapolated: {100 * share:.3g} % of the tokens, {measured} were measured")
    if lowered:
        notes.append(f"extrapolated: {lowered}" if "were measured" in lowered else lowered)
    if not shape.audio:
        notes.append("extrapolated: no audio tokens, and all measured clips have audio")
    return notes


def _speech(clip: _Clip, tokens: int, shape: PromptShape, audio_kept: int) -> list[str]:
    """A split with more audio, where the rule of a number of tokens leaves too little of it for speech."""
    audio = min(1.0, _SPEECH * clip.seconds / max(shape.audio, 1))
    video = (tokens - audio * shape.audio) / shape.video
    if not shape.audio or audio_kept >= min(_SPEECH * clip.seconds, shape.audio) or video * shape.video < shape.frames:
        return []
    split = Budget(retain_video=float(f"{min(video, 1.0):.3g}"), retain_audio=float(f"{audio:.3g}"))
    kept = sum(_kept(split.counts(shape.chunks())))
    options = f"--retain-video {split.retain_video:g} --retain-audio {split.retain_audio:g}"
    few = f"{audio_kept / clip.seconds:.1f} audio tokens per second stay, clips with speech need about {_SPEECH:g}"
    return [f"{few}: {options} instead of --tokens keeps {kept:,} tokens in all"]


def _kept(counts: Counts) -> tuple[int, int]:
    """Video and audio tokens that stay."""
    return int((counts.frame0 + counts.frame1).sum()), int(counts.audio.sum())


@cache
def _table() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return found
