"""The interface of engines: any object with `Engine.ask` can be given to `run`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from omnisift.pipeline.report import Source


@dataclass(frozen=True)
class EngineAnswer:
    """One answer and its cost."""

    text: str
    tokens: dict[str, int]
    """``video``, ``video_kept``, ``audio``, ``audio_kept``, ``prompt``, ``prompt_kept``, ``generated``; of clips with
    lines of text also ``text``, ``text_kept``; of engines that hold prompts also ``prompt_cached``, the tokens of
    ``prompt_kept`` that were read for an earlier question."""
    seconds: dict[str, float]
    """Stage -> wall-clock seconds, for the stages that the engine measures; ``total`` is always there."""
    source: dict[str, Any]
    """What was read of the clip: seconds, images, frame rate, size, whether it has video and audio."""
    notices: tuple[str, ...] = ()


class Engine(Protocol):
    """Answers questions about one clip at a time."""

    def ask(self, clip: Path, questions: Sequence[str]) -> list[EngineAnswer]:
        """Answer each question about a clip.

        Args:
            clip: path of the media file.
            questions: at least one.

        Returns:
            One answer per question, in the same order.

        Raises:
            EngineLost: the engine can't be used again in this process. Any other exception concerns this clip only.
        """


@runtime_checkable
class BatchEngine(Engine, Protocol):
    """Answers questions about several clips at once."""

    def ask_batch(self, requests: Sequence[tuple[Path, Sequence[str]]]) -> list[list[EngineAnswer] | Exception]:
        """Answer the questions about several clips.

        Args:
            requests: pairs of a clip and its questions.

        Returns:
            For each clip what `Engine.ask` returns, or the exception that concerns this clip only.

        Raises:
            EngineLost: one of the clips, unknown which, broke the engine; it can't be used again in this process.
        """


def source_fields(source: Source) -> dict[str, Any]:
    """Return the fields of ``source`` for `EngineAnswer.source`, without the path: a row names its clip itself."""
    return {name: value for name, value in asdict(source).items() if name != "path"}
