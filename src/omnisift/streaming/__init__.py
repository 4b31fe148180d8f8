"""Live streams: video and audio that come piece by piece, and questions at any moment, in bounded memory."""

import omnisift.pipeline  # noqa: F401 - sessions and pipelines name each other; this order lets either be imported first
from omnisift.streaming.policies import KeepAll, MemoryBank, NestedBudgets, Policy, SlidingWindow
from omnisift.streaming.report import StreamAnswer, StreamReport
from omnisift.streaming.session import StreamSession

__all__ = [
    "KeepAll",
    "MemoryBank",
    "NestedBudgets",
    "Policy",
    "SlidingWindow",
    "StreamAnswer",
    "StreamReport",
    "StreamSession",
]
