"""The demo: one clip, three questions, all tokens against a part of them."""

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

_TYPES = ("color_of_shape", "sound_with", "order")


@dataclass(frozen=True)
class DemoRow:
    """One question with its true answer and both given ones."""

    question: str
    truth: str
    full: Answer
    cut: Answer


@dataclass(frozen=True)
class DemoResult:
    """The clip's caption and the answered questions."""

    caption: str
    retain: float
    rows: list[DemoRow]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        rows = [
            {"question": row.question, "truth": row.truth, "full": row.full.to_dict(), "cut": row.cut.to_dict()}
            for row in self.rows
        ]
        return {"caption": self.caption, "retain": self.retain, "rows": rows}


def run_demo(seed: int, retain: float, out: Path | None, quiet: bool, console: Console) -> DemoResult:
    """Make the clip, ask the bundled nano three questions twice each."""
    import numpy as np

    from omnisift.pipeline import load
    from omnisift.world import make_scene, questions

    with tempfile.TemporaryDirectory() as folder, StageBar(console, quiet, total=8) as bar:
        clip = out if out is not None else Path(folder) / "clip.mp4"
        made = write_test_clip(clip, seed, force=out is None)
        full = load("nano", compressor=None)
        cut = load("nano", compressor="omnisift", retain_video=retain, retain_audio=retain)
        scene, rng = make_scene(seed, split="test"), np.random.default_rng(seed)
        rows = []
        for question in (questions(scene, rng, types=[kind])[0] for kind in _TYPES):
            bar.stage(f"asking: {question.text}")
            answers = [pipeline.ask(clip, question.text) for pipeline in (full, cut)]
            rows.append(DemoRow(question.text, question.answer, *answers))
    return DemoResult(made.caption, retain, rows)
