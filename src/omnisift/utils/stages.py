"""Stages of a question, as `omnisift.pipeline.report.Seconds` names them, and how they are shown."""

from __future__ import annotations

from typing import NamedTuple


class Stage(NamedTuple):
    """How a stage is called."""

    title: str
    """In tables."""
    running: str
    """While it runs."""


STAGES = {
    "read": Stage("read", "reading the clip"),
    "process": Stage("prepare", "preparing the prompt"),
    "encode_video": Stage("encode video", "encoding video"),
    "encode_audio": Stage("encode audio", "encoding audio"),
    "compress": Stage("compress", "compressing"),
    "prefill": Stage("LLM prefill", "prefilling"),
    "decode": Stage("decode", "writing the answer"),
}
"""In the order in which they run."""


def window_name(number: int, count: int) -> str:
    """What `on_stage` gets before the stages of a window of a long clip: ``window 3 of 225``."""
    return f"window {number} of {count}"


def is_window(name: str) -> bool:
    """Whether a name is that of a window, not of a stage."""
    return name.startswith("window ")
