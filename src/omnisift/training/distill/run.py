"""Distill a selector from clips: observe the model's attention, train on it, measure the agreement."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from omnisift.budget import Budget
from omnisift.compressors.salient import SalientCompressor
from omnisift.compressors.stvp import StvpCompressor
from omnisift.config import ReadOptions
from omnisift.errors import MediaError, UsageError
from omnisift.media.suffixes import VIDEO_SUFFIXES
from omnisift.models.selector import new_selector
from omnisift.pipeline.clip_format import hears
from omnisift.pipeline.loading import Host
from omnisift.pipeline.prompt import read_for
from omnisift.stvp import video_logits
from omnisift.tokens import TokenStream
from omnisift.training.distill.learn import (
    audio_agreement,
    scores_of,
    train_selector,
    train_video_score,
    video_agreement,
)
from omnisift.training.distill.observing import observe
from omnisift.training.distill.samples import DistillFiles, DistillSample
from omnisift.utils.atomic_io import atomic_folder
from omnisift.utils.parsing import read_text, shown
from omnisift.utils.questions import check_question, check_text
from omnisift.utils.quiet import quiet_transformers
from omnisift.utils.special_tokens import SpecialTokens
from omnisift.vgas import VGAS
from omnisift.video_score import VideoScore

logger = logging.getLogger(__name__)
QUESTIONS = (
    "What is happening in this clip?",
    "What can be heard, and what makes the sound?",
    "Who or what is shown, and what does it do?",
    "What is said?",
    "What happens first, and what happens last?",
    "Which sounds belong to what is visible?",
)
"""Questions about every clip where none are given."""
RETAINS = (0.25, 0.15)
"""Ratios at which agreement is measured."""
Score = Callable[[TokenStream, float], Any]


@dataclass(frozen=True)
class DistillSettings(ReadOptions):
    """Settings of `observe_clips` and `distill`.

    Raises:
        UsageError: ``rows`` is neither ``answer`` nor ``question``, or a reading option is out of range.
    """

    max_steps: int = 200
    """Optimizer steps of the selector."""
    learning_rate: float = 1e-3
    """Peak learning rate (AdamW)."""
    questions: int = 4
    """Questions per clip, drawn from all questions."""
    time_embedding: bool = True
    """Whether the selector has a time embedding, which the paper's selector does not. Without it the selector makes
    little use of the video (docs/estimators.md)."""
    weighted: bool = True
    """Whether attention is multiplied by saliency, 1 - cosine of a token to the mean of its chunk."""
    video_score: bool = False
    """Whether the selector also gets a learned video score, which replaces STVP. For a model without audio nothing else
    is trained (`parts_of`)."""
    rows: str = "answer"
    """Query positions of the attention: ``answer``, where the answer begins, or ``question``, the mean over all tokens
    after the clip."""
    held_out: float = 0.1
    """Share of the clips, drawn by the seed, that only measure agreement; at least one clip."""
    seed: int = 0
    """Seed of new weights, batches, questions and held-out clips."""

    def __post_init__(self) -> None:
        if self.rows not in ("answer", "question"):
            raise UsageError(f"rows must be answer or question, got {self.rows!r}")
        self.check()


def parts_of(host: Host, settings: DistillSettings) -> list[str]:
    """What is trained: ``audio``, the selector's scores of audio tokens, and ``video``, the learned video score.

    For a model without audio that is the video score, whatever the settings say.
    """
    if not hears(host.processor):
        return ["video"]
    return ["audio", "video"] if settings.video_score else ["audio"]


def find_clips(folder: Path) -> list[Path]:
    """All video files below ``folder``, sorted by path.

    Raises:
        UsageError: ``folder`` is no folder, or holds fewer than two video files.
    """
    if folder.is_file():
        raise UsageError(f"{folder} is a file; give a folder with video files")
    if not folder.is_dir():
        raise UsageError(f"no folder {folder}; give a folder with video files")
    clips = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file() and not _is_unfinished(path.relative_to(folder))
    )
    if len(clips) < 2:
        raise UsageError(f"{len(clips)} video files in {folder}; at least 2 are needed, one of them to measure on")
    return clips


def _is_unfinished(path: Path) -> bool:
    """Whether a command is writing this file, or its process was killed meanwhile."""
    return ".part" in path.suffixes or any(name.startswith(".omnisift-") for name in path.parts)


def load_questions(path: Path | None) -> tuple[str, ...]:
    """The questions in a text file, one per line; lines that begin with ``#`` are comments.

    Args:
        path: the file; None means the built-in `QUESTIONS`.

    Raises:
        UsageError: the file is missing, empty or not UTF-8 text, or a question is too long.
    """
    if path is None:
        return QUESTIONS
    lines = [line.strip() for line in read_text(path, "the questions in").splitlines()]
    questions = tuple(line for line in lines if line and not line.startswith("#"))
    if not questions:
        raise UsageError(f"{path} has no questions; write one per line")
    for question in questions:
        check_question(question, str(path))
    return questions


def observe_clips(
    host: Host, clips: Sequence[Path], questions: Sequence[str], settings: DistillSettings, work: Path,
    step: Callable[[], None],
) -> tuple[DistillFiles, dict[str, str]]:  # fmt: skip
    """Record the model's attention over each clip (see `observe`).

    Results are kept in ``work``, one file per clip, so that an interrupted call resumes.

    Args:
        host: the model that is observed.
        clips: video files.
        questions: all questions; each clip gets ``settings.questions`` of them.
        settings: how clips are read and observed.
        work: folder of the recorded samples.
        step: called after each clip.

    Returns:
        (the samples, clip -> why it was skipped).

    Raises:
        UsageError: fewer than two clips can be used, or a question contains a special token of the model.
    """
    special = SpecialTokens.of(host.processor.tokenizer)
    for question in questions:
        check_text(question, f"the question {shown(question)}", special)
    work.mkdir(parents=True, exist_ok=True)
    kept, skipped, weights = [], {}, _weights_state(Path(host.source))
    for clip in clips:
        # Drawn by the clip's name and not by its index, so that a new clip does not change the others' questions.
        digest = hashlib.sha256(f"{settings.seed}|{clip.name}".encode(errors="surrogateescape")).digest()[:6]
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
        order = torch.randperm(len(questions), generator=generator)
        drawn = [questions[index] for index in order[: settings.questions].tolist()]
        path = work / f"{_digest(host, weights, clip, drawn, settings)}.safetensors"
        error = None if DistillSample.load(path) is not None else _observe_to(path, host, clip, drawn, settings)
        if error is None:
            kept.append(path)
        else:
            logger.warning("skipped: %s", error)
            skipped[str(clip)] = error
        step()
    if len(kept) < 2:
        raise UsageError(f"only {len(kept)} of {len(clips)} clips can be used; at least 2 are needed")
    return DistillFiles(kept), skipped


def _observe_to(path: Path, host: Host, clip: Path, questions: Sequence[str], settings: DistillSettings) -> str | None:
    """Write one sample to ``path``; returns why there is none, or None."""
    try:
        media = read_for(host.processor, clip, **settings.reading)
        observe(host, media, questions, settings.rows).save(path)
    except (MediaError, UsageError) as error:
        return str(error)
    except torch.OutOfMemoryError:
        return f"{clip}: too long for this device's memory; give a smaller --max-frames or --fps"
    return None


def distill(
    host: Host, samples: Sequence[DistillSample], settings: DistillSettings, step: Callable[[], None] | None = None
) -> tuple[VGAS, dict[str, Any]]:
    """Train a selector on recorded attention and measure its agreement on held-out clips.

    Args:
        host: the model that was observed; only its name is used, and whether it takes audio.
        samples: what `observe_clips` returned.
        settings: how the selector is trained.
        step: called after each optimizer step.

    Returns:
        (selector, report); the report is JSON-ready and holds settings, losses and agreement (see `audio_agreement`):
        of audio in ``agreement``, of video in ``picture``. ``parts`` is that of `parts_of`.
    """
    if isinstance(samples, DistillFiles):
        samples = samples.shuffled(settings.seed)
    n_test = min(len(samples) - 1, max(1, round(settings.held_out * len(samples))))
    training, checked = samples[:-n_test], samples[-n_test:]
    width, parts = samples[0].embeds.shape[1], parts_of(host, settings)
    if "audio" not in parts:
        settings = replace(settings, video_score=True, time_embedding=False)
    new = partial(new_selector, width, settings.time_embedding, settings.seed)
    selector, untrained = (new(video_score=settings.video_score, audio_score="audio" in parts) for _ in range(2))
    schedule = (settings.max_steps, settings.learning_rate, settings.seed)
    losses: list[float] = []
    if selector.video_score is not None:
        losses = train_video_score(selector.video_score, training, *schedule, step)
        untrained.picture = selector.video_score  # both select audio by the same anchors
    if "audio" in parts:
        losses = train_selector(selector, training, *schedule, settings.weighted, step)
    selector.train(False)
    report: dict[str, Any] = {
        "model": host.name,
        "parts": parts,
        "settings": asdict(settings),
        "clips": {"taught": len(training), "held out": len(checked)},
        "loss": {"first": round(losses[0], 4), "last": round(losses[-1], 4)},
    }
    if "audio" in parts:
        report["agreement"] = {
            f"{retain:g}": _compare_audio(selector, untrained, checked, retain, settings.weighted) for retain in RETAINS
        }
    if selector.video_score is not None:
        report["picture"] = {f"{retain:g}": _compare_video(selector.video_score, checked, retain) for retain in RETAINS}
    return selector, report


def save_selector(selector: VGAS, report: dict[str, Any], folder: Path) -> None:
    """Write the selector and ``report.json`` to ``folder``, which appears only when it is complete."""
    with atomic_folder(folder) as unfinished, quiet_transformers():
        selector.save_pretrained(unfinished)
        (unfinished / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _compare_audio(
    selector: VGAS, untrained: VGAS, samples: Sequence[DistillSample], retain: float, weighted: bool
) -> dict[str, dict[str, float]]:
    salient = SalientCompressor(Budget(retain=retain))
    generator = torch.Generator().manual_seed(0)
    scores: dict[str, Score] = {
        "selector": lambda stream, share: scores_of(selector, stream, share),
        "untrained": lambda stream, share: scores_of(untrained, stream, share),
        "salient": lambda stream, _: salient.score(stream).float(),
        "random": lambda stream, _: torch.rand(len(stream), generator=generator),
    }
    return {name: audio_agreement(score, samples, retain, weighted) for name, score in scores.items()}


def _compare_video(
    video_score: VideoScore, samples: Sequence[DistillSample], retain: float
) -> dict[str, dict[str, float]]:
    generator, budget = torch.Generator().manual_seed(0), Budget(retain=retain)
    scores: dict[str, Score] = {
        "learned": lambda stream, _: video_logits(video_score, stream),
        "stvp": lambda stream, _: StvpCompressor(budget).score(stream),
        "salient": lambda stream, _: SalientCompressor(budget).score(stream).float(),
        "random": lambda stream, _: torch.rand(len(stream), generator=generator),
    }
    return {name: video_agreement(score, samples, retain) for name, score in scores.items()}


def _weights_state(folder: Path) -> list[list[Any]]:
    """Names, sizes and times of the weight files in ``folder``; a hub id has none, since its snapshot never changes."""
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _digest(
    host: Host, weights: list[list[Any]], clip: Path, questions: Sequence[str], settings: DistillSettings
) -> str:
    """Name of a sample's file: it changes with the model, the clip, the questions and how the clip is read."""
    state = clip.stat()
    key = [host.source, weights, str(clip.resolve()), state.st_size, state.st_mtime_ns, list(questions)]
    key += [settings.fps, settings.max_frames, settings.rows, str(host.thinker.dtype)]
    others = [settings.max_pixels, settings.sampling]
    key += [] if others == [ReadOptions.max_pixels, ReadOptions.sampling] else others  # files of earlier runs are used
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
