"""Stages of a question, and gauges that measure each of them.

`Pipeline.ask` reports each stage as it begins; a gauge is read at these moments, so the pipeline itself is measured.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any

from omnisift.utils.stages import STAGES

MODEL_STAGES = tuple(STAGES)[2:]
"""Stages that run torch; reading and preparing a clip do not."""


class Gauge(ABC):
    """Context that measures every stage; pass ``gauge.stage`` to ``Pipeline.ask(on_stage=...)``."""

    def __init__(self) -> None:
        self._running: str | None = None

    @abstractmethod
    def begin(self, stage: str) -> None:
        """Start the measurement of a stage."""

    @abstractmethod
    def end(self, stage: str) -> None:
        """End the measurement of a stage, which can begin again."""

    def stage(self, name: str) -> None:
        """End the running stage and begin the stage ``name``."""
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
