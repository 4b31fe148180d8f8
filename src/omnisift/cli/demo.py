"""`omnisift demo`: one clip and three questions, with all tokens, with a part of them, and with a random part."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnisift.cli.clip import write_test_clip
from omnisift.cli.screen import StageBar

if TYPE_CHECKING:
    from rich.console import Console

    from omnisift.pipeline import Answer


@dataclass(frozen=True)
class DemoRow:
    """One question with its true answer and the three given ones."""

    question: str
    truth: str
    full: Answer
    """From all tokens."""
    cut: Answer
    """From the tokens that OmniSIFT keeps."""
    random: Answer
    """From the same number of random tokens."""


@dataclass(frozen=True)
class DemoResult:
    """The clip's caption and the answered questions."""

    caption: str
    retain: float
    rows: list[DemoRow]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        rows = [
            {
                "question": row.question,
                "truth": row.truth,
                "full": row.full.to_dict(),
                "cut": row.cut.to_dict(),
                "random": row.random.to_dict(),
            }
            for row in self.rows
        ]
        return {"caption": self.caption, "retain": self.retain, "rows": rows}


def run_demo(seed: int, retain: float, out: Path | None, quiet: bool, console: Console) -> DemoResult:
    """Make a test clip and ask the bundled model three questions about it, with each of three methods.

    Args:
        seed: number of the clip in the test split.
        retain: fraction of the video and of the audio tokens to keep.
        out: where the clip is written; None writes it to a temporary folder.
        quiet: show no progress bar.
        console: where the progress bar is shown.

    Raises:
        UsageError: ``seed`` is negative, or ``out`` exists.
        BudgetError: ``retain`` is outside (0, 1].
    """
    from omnisift.budget import Budget
    from omnisift.pipeline import Pipeline, load
    from omnisift.pipeline.ask import compressor_for
    from omnisift.ui.samples import example_questions
    from omnisift.world import make_scene

    budget = Budget(retain_video=retain, retain_audio=retain)
    with tempfile.TemporaryDirectory() as folder, StageBar(console, quiet, total=12) as bar:
        clip = out if out is not None else Path(folder) / "clip.mp4"
        made = write_test_clip(clip, seed, force=out is None)
        full = load("nano", compressor=None)
        cut, random = (Pipeline(full.host, compressor_for(full.host, name, budget)) for name in ("omnisift", "random"))
        rows = []
        for question in example_questions(make_scene(seed, split="test")):
            bar.stage(f"asking: {question.text}")
            answers = [pipeline.ask(clip, question.text) for pipeline in (full, cut, random)]
            rows.append(DemoRow(question.text, question.answer, *answers))
    return DemoResult(made.caption, retain, rows)
