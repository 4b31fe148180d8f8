"""Counters of kept and dropped tokens in vLLM's registry of metrics (``/metrics``)."""

from __future__ import annotations

from functools import cache
from typing import Any


def count_tokens(kept: int, total: int) -> None:
    """Count one clip of a prompt.

    Args:
        kept: its tokens after compression.
        total: its tokens before compression.
    """
    kept_counter, dropped_counter = _counters()
    kept_counter.inc(kept)
    dropped_counter.inc(total - kept)


@cache
def _counters() -> tuple[Any, Any]:
    from prometheus_client import Counter

    return (
        Counter("omnisift_kept_tokens", "Tokens of videos and their audio that were kept in prompts"),
        Counter("omnisift_dropped_tokens", "Tokens of videos and their audio that were dropped from prompts"),
    )
