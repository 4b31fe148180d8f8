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
