"""The stages of one question, and gauges that are read where one ends and the next begins.

`Pipeline.ask` names each stage as it begins. What a gauge shows between two names belongs to the first of them, so the
pipeline itself is what is measured: there is no second one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any

STAGES = ("read", "process", "encode_video", "encode_audio", "compress", "prefill", "decode")
"""As in `omnisift.pipeline.report.Seconds`."""
MODEL_STAGES = STAGES[2:]
"""Those in which torch works; decoding a file is done outside of it."""


class Gauge(ABC):
    """Notes what every stage uses, while it is entered. ``gauge.stage`` goes to ``Pipeline.ask(on_stage=...)``."""

    def __init__(self) -> None:
        self._running: str | None = None

    @abstractmethod
    def begin(self, stage: str) -> None:
        """A stage begins."""

    @abstractmethod
    def end(self, stage: str) -> None:
        """It ends; it may begin again."""

    def stage(self, name: str) -> None:
        """The stage ``name`` begins, so the one before ends."""
        self._stop()
        self._running = name
        self.begin(name)

    def _stop(self) -> None:
        if self._running is not None:
            self.end(self._running)
        self._running = None

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
