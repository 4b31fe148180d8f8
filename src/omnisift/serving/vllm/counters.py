"""What compression saved, in vLLM's own registry of metrics (``/metrics``)."""

from __future__ import annotations

from functools import cache
from typing import Any


def count_tokens(kept: int, total: int) -> None:
    """Add one clip of a prompt."""
    stayed, went = _counters()
    stayed.inc(kept)
    went.inc(total - kept)


@cache
def _counters() -> tuple[Any, Any]:
    from prometheus_client import Counter

    return (
        Counter("omnisift_kept_tokens", "Tokens of videos and their sound that stayed in prompts"),
        Counter("omnisift_dropped_tokens", "Tokens of videos and their sound that were dropped from prompts"),
    )
