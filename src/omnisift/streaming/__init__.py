"""Live streams: video and audio that come piece by piece, and questions at any moment, in bounded memory."""

from omnisift.streaming.live import LiveReader
from omnisift.streaming.peak import PeakMeter
from omnisift.streaming.policies import KeepAll, MemoryBank, NestedBudgets, Policy, SlidingWindow
from omnisift.streaming.report import StreamAnswer, StreamReport
from omnisift.streaming.session import StreamSession

__all__ = [
    "KeepAll",
    "LiveReader",
    "MemoryBank",
    "NestedBudgets",
    "PeakMeter",
    "Policy",
    "SlidingWindow",
    "StreamAnswer",
    "StreamReport",
    "StreamSession",
]
