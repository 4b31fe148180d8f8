"""Who answers: the `Engine` protocol, and the engine that there is, a `Pipeline` in this process.

vLLM is to be the second one. It isn't there yet; whatever has `Engine.ask` can be handed to `run`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from omnisift.errors import EngineLost, TooBig, UsageError

if TYPE_CHECKING:
    from omnisift.media import Media
    from omnisift.pipeline import Answer, Pipeline


@dataclass(frozen=True)
class Reply:
    """One answer, and what it cost."""

    text: str
    tokens: dict[str, int]
    """``video``, ``video_kept``, ``audio``, ``audio_kept``, ``prompt``, ``prompt_kept``, ``generated``."""
    seconds: dict[str, float]
    """Stage -> wall-clock seconds, as far as the engine knows them; ``total`` always."""
    source: dict[str, Any]
    """What was seen of the clip: its seconds, images, rate, whether there was picture and sound."""
    notices: tuple[str, ...] = ()


class Engine(Protocol):
    """Answers questions about one clip at a time."""

    def ask(self, clip: Path, questions: Sequence[str]) -> list[Reply]:
        """One reply for each question, in order.

        Raises:
            EngineLost: nothing more can be asked in this process. Any other exception is about this clip alone.
        """


@dataclass(frozen=True)
class ModelSettings:
    """Model, compressor and sampling of a `ModelEngine`: plain data, so that other machines can load the same."""

    model: str = "nano"
    compressor: str = "omnisift"
    """A method's name, or ``none`` to read every token."""
    retain: float | None = None
    retain_video: float | None = None
    retain_audio: float | None = None
    selector: str | None = None
    device: str = "cpu"
    dtype: str | None = None
    attn: str | None = None
    seed: int = 0
    fps: float = 2.0
    max_frames: int = 256
    max_pixels: int | None = None
    sampling: str = "time"
    max_new_tokens: int = 256

    def to_dict(self) -> dict[str, Any]:
        """What must stay the same while a run goes on; of the device only its kind, since cuda:1 answers as cuda:0."""
        return asdict(self) | {"device": self.device.partition(":")[0]}

    def check(self) -> None:
        """Raise `UsageError` for sampling that means nothing: else every clip would fail with the same words."""
        from omnisift.media import smart_size
        from omnisift.media.sampling import check_numbers

        if self.sampling not in ("time", "qwen"):
            raise UsageError(f"sampling must be time or qwen, got {self.sampling!r}")
        check_numbers(self.fps, self.max_frames, 0.0, None, 1.0)
        if self.max_pixels is not None:
            smart_size(28, 28, min_pixels=1, max_pixels=self.max_pixels)

    def load(self) -> ModelEngine:
        """The engine. Raises `OmniSiftError` as `omnisift.pipeline.load` does, or if model and compressor don't fit."""
        from omnisift.models import attach
        from omnisift.pipeline import load

        self.check()
        pipeline = load(
            self.model,
            compressor=None if self.compressor == "none" else self.compressor,
            retain=self.retain,
            retain_video=self.retain_video,
            retain_audio=self.retain_audio,
            selector=self.selector,
            seed=self.seed,
            device=self.device,
            dtype=self.dtype,
            attn=self.attn,
        )
        if pipeline.compressor is not None:
            with attach(pipeline.host.thinker, pipeline.compressor):
                pass  # what the adapter can't supply is refused here, not once for every clip
        return ModelEngine(pipeline, self)


class ModelEngine:
    """A `Pipeline` that reads each clip once, whatever the number of questions."""

    def __init__(self, pipeline: Pipeline, settings: ModelSettings) -> None:
        self.pipeline = pipeline
        self.settings = settings

    def ask(self, clip: Path, questions: Sequence[str]) -> list[Reply]:
        """See `Engine.ask`. `TooBig` where the device's memory is not enough."""
        import torch

        how, begin = self.settings, time.perf_counter()
        try:
            media = self.pipeline.read(
                clip, fps=how.fps, max_frames=how.max_frames, max_pixels=how.max_pixels, sampling=how.sampling
            )
            read = time.perf_counter() - begin
            # The first question pays for the reading.
            return [self._reply(media, text, 0.0 if number else read) for number, text in enumerate(questions)]
        except torch.OutOfMemoryError:
            raise TooBig(f"{clip}: too long for this device's memory; lower --max-frames, --fps or --retain") from None
        except torch.AcceleratorError as error:
            reason = str(error).strip().splitlines()[0]
            raise EngineLost(f"{clip}: the device failed ({reason}); the same command goes on behind it") from error

    def _reply(self, media: Media, question: str, read: float) -> Reply:
        answer: Answer = self.pipeline.ask(media, question, max_new_tokens=self.settings.max_new_tokens)
        said, seen = answer.to_dict(), asdict(answer.report.source)
        del seen["path"]
        seconds = said["seconds"] | {"read": read, "total": said["seconds"]["total"] + read}
        return Reply(answer.text, said["tokens"], seconds, seen, answer.report.notices)
