"""`distill`: clips in, a selector out. The language model and the encoders are only read."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from omnisift.budget import Budget
from omnisift.compressors.pruning import picture_logits
from omnisift.compressors.salient import SalientCompressor
from omnisift.compressors.stvp import StvpCompressor
from omnisift.errors import MediaError, UsageError
from omnisift.media.suffixes import VIDEO_SUFFIXES
from omnisift.pipeline.loading import Host
from omnisift.pipeline.prompt import read_for
from omnisift.tokens import TokenStream
from omnisift.training.distill.learn import agreement, learn, learn_picture, picture_agreement, scores_of
from omnisift.training.distill.samples import DistillFiles, Lesson, observe
from omnisift.training.selector import new_selector
from omnisift.utils.atomic_io import atomic_folder
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
"""Asked of every clip where no questions are given."""
RETAINS = (0.25, 0.15)


@dataclass(frozen=True)
class DistillSettings:
    """How a selector is distilled."""

    steps: int = 200
    """Of the selector."""
    rate: float = 1e-3
    """Peak learning rate (AdamW)."""
    questions: int = 4
    """Questions of each clip, drawn from all that there are."""
    time_embedding: bool = True
    """Our addition to the paper's selector; it is what makes guidance by the picture work (docs/estimators.md)."""
    weighted: bool = True
    """Whether attention is multiplied by how unlike its chunk's mean a token is."""
    picture: bool = False
    """Whether the selector gets a score for the picture as well, in STVP's place."""
    rows: str = "answer"
    """Which places look: ``answer``, where it is due, or ``question``, the mean over all that follows the clip."""
    held_out: float = 0.1
    """Share of the clips, drawn by the seed, on which agreement is measured; at least one."""
    fps: float = 2.0
    """Pictures sampled per second."""
    max_frames: int = 256
    """Most pictures of a clip."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rows not in ("answer", "question"):
            raise UsageError(f"rows must be answer or question, got {self.rows!r}")


def clips_in(folder: Path) -> list[Path]:
    """All video files below ``folder``, in order of their names. `UsageError` if there are none."""
    if not folder.is_dir():
        raise UsageError(f"no folder {folder}; give one with video files")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file() and ".part" not in path.suffixes
    )
    if len(found) < 2:
        raise UsageError(f"{len(found)} video files in {folder}; at least 2 are needed, one of them to measure on")
    return found


def questions_of(path: Path | None) -> tuple[str, ...]:
    """One question a line; the built-in ones without a file. `UsageError` for an empty or missing file."""
    if path is None:
        return QUESTIONS
    try:
        found = tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"can't read the questions in {path}: {type(error).__name__}") from None
    if not found:
        raise UsageError(f"{path} holds no question; write one a line")
    return found


def observe_clips(
    host: Host, clips: Sequence[Path], questions: Sequence[str], settings: DistillSettings, work: Path,
    step: Callable[[], None],
) -> tuple[DistillFiles, dict[str, str]]:  # fmt: skip
    """(lessons, clip -> why it was left out). Each clip's lesson is kept in ``work``; one that is there is taken."""
    work.mkdir(parents=True, exist_ok=True)
    kept, skipped, weights = [], {}, _state(Path(host.source))
    for clip in clips:
        # Drawn by the clip's name, not its place in the list: a new clip must not change what the others are asked.
        drawn = hashlib.sha256(f"{settings.seed}|{clip.name}".encode()).digest()[:6]
        random = torch.Generator().manual_seed(int.from_bytes(drawn, "big"))
        asked = [questions[i] for i in torch.randperm(len(questions), generator=random)[: settings.questions].tolist()]
        path = work / f"{_digest(host, weights, clip, asked, settings)}.safetensors"
        why = None if Lesson.load(path) is not None else _observed(host, clip, asked, settings, path)
        if why is None:
            kept.append(path)
        else:
            logger.warning("left out: %s", why)
            skipped[str(clip)] = why
        step()
    if len(kept) < 2:
        raise UsageError(f"only {len(kept)} of {len(clips)} clips could be used; at least 2 are needed")
    return DistillFiles(kept), skipped


def _observed(host: Host, clip: Path, asked: Sequence[str], settings: DistillSettings, path: Path) -> str | None:
    """Write one lesson; or why there is none."""
    try:
        media = read_for(host.processor, clip, fps=settings.fps, max_frames=settings.max_frames)
        observe(host, media, asked, settings.rows).save(path)
    except (MediaError, UsageError) as error:
        return str(error)
    except torch.OutOfMemoryError:
        return f"{clip}: too long for this device's memory; give a smaller --max-frames or --fps"
    return None


def distill(
    host: Host, lessons: Sequence[Lesson], settings: DistillSettings, step: Callable[[], None] | None = None
) -> tuple[VGAS, dict[str, Any]]:
    """(selector, report). A share ``held_out`` of the lessons, drawn by the seed, is only measured on."""
    if isinstance(lessons, DistillFiles):
        lessons = lessons.shuffled(settings.seed)
    held = min(len(lessons) - 1, max(1, round(settings.held_out * len(lessons))))
    taught, checked = lessons[:-held], lessons[-held:]
    width = lessons[0].embeds.shape[1]
    selector, before = (
        new_selector(width, settings.time_embedding, settings.seed, picture=settings.picture) for _ in range(2)
    )
    if selector.picture is not None:
        learn_picture(selector.picture, taught, settings.steps, settings.rate, settings.seed, step)
        before.picture = selector.picture  # both choose their sounds by the same anchors
    losses = learn(selector, taught, settings.steps, settings.rate, settings.seed, settings.weighted, step)
    selector.train(False)
    report = {
        "model": host.name,
        "settings": asdict(settings),
        "clips": {"taught": len(taught), "held out": len(checked)},
        "loss": {"first": round(losses[0], 4), "last": round(losses[-1], 4)},
        "agreement": {
            f"{retain:g}": _compared(selector, before, checked, retain, settings.weighted) for retain in RETAINS
        },
    }
    if selector.picture is not None:
        report["picture"] = {f"{retain:g}": _pictures_compared(selector.picture, checked, retain) for retain in RETAINS}
    return selector, report


def save_selector(selector: VGAS, report: dict[str, Any], folder: Path) -> None:
    """Write the selector and ``report.json``; the folder appears only when it is whole."""
    with atomic_folder(folder) as unfinished:
        selector.save_pretrained(unfinished)
        (unfinished / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _compared(
    selector: VGAS, before: VGAS, lessons: Sequence[Lesson], retain: float, weighted: bool
) -> dict[str, dict[str, float]]:
    salient = SalientCompressor(Budget(retain=retain))
    random = torch.Generator().manual_seed(0)
    ways: dict[str, Callable[[TokenStream, float], Any]] = {
        "selector": lambda stream, share: scores_of(selector, stream, share),
        "untrained": lambda stream, share: scores_of(before, stream, share),
        "salient": lambda stream, _: salient.score(stream).float(),
        "random": lambda stream, _: torch.rand(len(stream), generator=random),
    }
    return {name: agreement(score, lessons, retain, weighted) for name, score in ways.items()}


def _pictures_compared(picture: VideoScore, lessons: Sequence[Lesson], retain: float) -> dict[str, dict[str, float]]:
    random, budget = torch.Generator().manual_seed(0), Budget(retain=retain)
    ways: dict[str, Callable[[TokenStream, float], Any]] = {
        "learned": lambda stream, _: picture_logits(picture, stream),
        "stvp": lambda stream, _: StvpCompressor(budget).score(stream),
        "salient": lambda stream, _: SalientCompressor(budget).score(stream).float(),
        "random": lambda stream, _: torch.rand(len(stream), generator=random),
    }
    return {name: picture_agreement(score, lessons, retain) for name, score in ways.items()}


def _state(folder: Path) -> list[list[Any]]:
    """What tells one set of weights in ``folder`` from another; a hub id has none, its snapshot does not change."""
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _digest(
    host: Host, weights: list[list[Any]], clip: Path, questions: Sequence[str], settings: DistillSettings
) -> str:
    state = clip.stat()
    what = [host.source, weights, str(clip.resolve()), state.st_size, state.st_mtime_ns, list(questions)]
    what += [settings.fps, settings.max_frames, settings.rows, str(host.thinker.dtype)]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]
