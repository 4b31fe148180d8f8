"""Teach a selector what the full-token model itself looks at, without labels (docs/distill.md)."""

from omnisift.training.distill.run import (
    DistillSettings,
    clips_in,
    distill,
    observe_clips,
    questions_of,
    save_selector,
)

__all__ = ["DistillSettings", "clips_in", "distill", "observe_clips", "questions_of", "save_selector"]
