"""Train a selector on the attention of the full-token model, without labels (docs/distill.md)."""

from omnisift.training.distill.run import (
    DistillSettings,
    distill,
    find_clips,
    load_questions,
    observe_clips,
    parts_of,
    save_selector,
)

__all__ = [
    "DistillSettings",
    "distill",
    "find_clips",
    "load_questions",
    "observe_clips",
    "parts_of",
    "save_selector",
]
