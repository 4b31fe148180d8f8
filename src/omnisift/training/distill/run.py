"""`distill`: clips in, a selector out. The language model and the encoders are only read."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from omnisift.budget import Budget
from omnisift.compressors.salient import SalientCompressor
from omnisift.errors import MediaError, UsageError
from omnisift.media import read
from omnisift.pipeline.loading import Host
from omnisift.pipeline.prompt import pixel_limits
from omnisift.tokens import TokenStream
from omnisift.training.data.collator import PAPER_MAX_PIXELS
from omnisift.training.distill.learn import agreement, learn, scores_of
from omnisift.training.distill.lessons import Lesson, observe
from omnisift.training.selector import new_selector
from omnisift.vgas import VGAS

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
SUFFIXES = frozenset({".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".ts", ".mpg", ".mpeg"})
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
    held_out: float = 0.1
    """Share of the clips on which agreement is measured; at least one."""
    fps: float = 2.0
    """Pictures sampled per second."""
    max_frames: int = 256
    """Most pictures of a clip."""
    seed: int = 0


def clips_in(folder: Path) -> list[Path]:
    """All video files below ``folder``, in order of their names. `UsageError` if there are none."""
    if not folder.is_dir():
        raise UsageError(f"no folder {folder}; give one with video files")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
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
) -> tuple[list[Lesson], dict[str, str]]:  # fmt: skip
    """(lessons, clip -> why it was left out). Each clip's lesson is kept in ``work``; one that is there is taken."""
    work.mkdir(parents=True, exist_ok=True)
    lessons, skipped = [], {}
    for clip in clips:
        # Drawn by the clip's name, not its place in the list: a new clip must not change what the others are asked.
        drawn = hashlib.sha256(f"{settings.seed}|{clip.name}".encode()).digest()[:6]
        random = torch.Generator().manual_seed(int.from_bytes(drawn, "big"))
        asked = [questions[i] for i in torch.randperm(len(questions), generator=random)[: settings.questions].tolist()]
        path = work / f"{_digest(host, clip, asked, settings)}.safetensors"
        lesson = Lesson.load(path)
        if lesson is None:
            try:
                lesson = observe(host, _read(host, clip, settings), asked)
                lesson.save(path)
            except (MediaError, UsageError) as error:
                logger.warning("left out: %s", error)
                skipped[str(clip)] = str(error)
        if lesson is not None:
            lessons.append(lesson)
        step()
    if len(lessons) < 2:
        raise UsageError(f"only {len(lessons)} of {len(clips)} clips could be used; at least 2 are needed")
    return lessons, skipped


def distill(
    host: Host, lessons: Sequence[Lesson], settings: DistillSettings, step: Callable[[], None] | None = None
) -> tuple[VGAS, dict[str, Any]]:
    """(selector, report). The last ``held_out`` of the lessons are only measured on."""
    held = min(len(lessons) - 1, max(1, round(settings.held_out * len(lessons))))
    taught, checked = lessons[:-held], lessons[-held:]
    width = lessons[0].embeds.shape[1]
    selector = new_selector(width, settings.time_embedding, settings.seed)
    before = new_selector(width, settings.time_embedding, settings.seed)
    losses = learn(selector, taught, settings.steps, settings.rate, settings.seed, settings.weighted, step)
    selector.train(False)
    report = {
        "model": host.name,
        "settings": asdict(settings),
        "clips": {"taught": len(taught), "held out": len(checked)},
        "loss": {"first": round(losses[0], 4), "last": round(losses[-1], 4)},
        "agreement": {f"{retain:g}": _compared(selector, before, checked, retain) for retain in RETAINS},
    }
    return selector, report


def save_selector(selector: VGAS, report: dict[str, Any], folder: Path) -> None:
    """Write the selector and ``report.json``; the folder appears only when it is whole."""
    unfinished = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    selector.save_pretrained(unfinished)
    (unfinished / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def _compared(selector: VGAS, before: VGAS, lessons: Sequence[Lesson], retain: float) -> dict[str, dict[str, float]]:
    salient = SalientCompressor(Budget(retain=retain))
    random = torch.Generator().manual_seed(0)
    ways: dict[str, Callable[[TokenStream, float], Any]] = {
        "selector": lambda stream, share: scores_of(selector, stream, share),
        "untrained": lambda stream, share: scores_of(before, stream, share),
        "salient": lambda stream, _: salient.score(stream).float(),
        "random": lambda stream, _: torch.rand(len(stream), generator=random),
    }
    return {name: agreement(score, lessons, retain) for name, score in ways.items()}


def _read(host: Host, clip: Path, settings: DistillSettings) -> Any:
    least, most = pixel_limits(host.processor)
    most = min(most, PAPER_MAX_PIXELS)
    return read(clip, fps=settings.fps, max_frames=settings.max_frames, min_pixels=min(least, most), max_pixels=most)


def _digest(host: Host, clip: Path, questions: Sequence[str], settings: DistillSettings) -> str:
    state = clip.stat()
    what = [host.source, str(clip.resolve()), state.st_size, state.st_mtime_ns, list(questions)]
    what += [settings.fps, settings.max_frames, str(host.thinker.dtype)]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]
