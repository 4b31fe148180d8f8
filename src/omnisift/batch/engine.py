"""Who answers: the `Engine` protocol, the settings of the engines that there are, and a `Pipeline` as one of them.

The other is vLLM (`omnisift.batch.vllm_engine`). Whatever has `Engine.ask` can be handed to `run`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from omnisift.errors import EngineLost, TooBig, UsageError

if TYPE_CHECKING:
    from omnisift.media import Media
    from omnisift.media.reading import Sampling
    from omnisift.pipeline import Answer, Pipeline
    from omnisift.pipeline.report import Source


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


@runtime_checkable
class EngineOfMany(Engine, Protocol):
    """Answers about several clips at once."""

    def ask_many(self, asked: Sequence[tuple[Path, Sequence[str]]]) -> list[list[Reply] | Exception]:
        """For each clip and its questions what `Engine.ask` gives, or the exception that is about this clip alone.

        Raises:
            EngineLost: over one of them, nobody knows which, and nothing more can be asked in this process.
        """


@dataclass(frozen=True)
class ModelSettings:
    """Engine, model, compressor and sampling: plain data, so that other machines can load the same."""

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
    engine: str = "transformers"
    """``transformers`` or ``vllm``."""
    vllm: tuple[str, ...] = ()
    """Flags of vLLM's own."""

    def to_dict(self) -> dict[str, Any]:
        """What must stay the same while a run goes on: of the device only its kind, since cuda:1 answers as cuda:0;
        of vLLM's flags nothing, since memory and lengths may be set otherwise for what failed."""
        fixed = asdict(self) | {"device": self.device.partition(":")[0]}
        del fixed["vllm"]
        return fixed

    def check(self) -> None:
        """Raise `UsageError` for what means nothing: else every clip would fail with the same words."""
        from omnisift.media import smart_size
        from omnisift.media.sampling import check_numbers

        if self.engine not in ("transformers", "vllm"):
            raise UsageError(f"engine must be transformers or vllm, got {self.engine!r}")
        if self.engine == "vllm" and self.attn is not None:
            raise UsageError("attn is for Transformers; give vLLM its own flag, --attention-backend")
        if self.engine != "vllm" and self.vllm:
            raise UsageError(f"got {self.vllm[0]!r}, which would go to vLLM; leave it out, or give --engine vllm")
        if self.sampling not in ("time", "qwen"):
            raise UsageError(f"sampling must be time or qwen, got {self.sampling!r}")
        check_numbers(self.fps, self.max_frames, 0.0, None, 1.0)
        if self.max_pixels is not None:
            smart_size(28, 28, min_pixels=1, max_pixels=self.max_pixels)

    def load(self) -> Engine:
        """The engine. Raises `OmniSiftError` as `omnisift.pipeline.load` does, or if model and compressor don't fit."""
        self.check()
        if self.engine == "vllm":
            from omnisift.batch.vllm_engine import VllmEngine

            return VllmEngine(self)
        from omnisift.models import attach
        from omnisift.pipeline import load

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
            attn_implementation=self.attn,
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
                clip,
                fps=how.fps,
                max_frames=how.max_frames,
                max_pixels=how.max_pixels,
                sampling=cast("Sampling", how.sampling),
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
        said = answer.to_dict()
        seconds = said["seconds"] | {"read": read, "total": said["seconds"]["total"] + read}
        return Reply(answer.text, said["tokens"], seconds, seen(answer.report.source), answer.report.notices)


def seen(source: Source) -> dict[str, Any]:
    """What was seen of a clip, for `Reply`: the row names the clip itself."""
    return {name: value for name, value in asdict(source).items() if name != "path"}
