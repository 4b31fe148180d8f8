"""The engines of a batch run: the `Engine` protocol, the settings that load one, and `Pipeline` as an engine.

The other engine is vLLM (`omnisift.batch.vllm_engine`). Any object with `Engine.ask` can be given to `run`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from omnisift.config import CompressionConfig, ReadOptions
from omnisift.errors import EngineLost, TooBig, UsageError

if TYPE_CHECKING:
    from omnisift.media import Media
    from omnisift.pipeline import Answer, Pipeline
    from omnisift.pipeline.report import Source


@dataclass(frozen=True)
class EngineAnswer:
    """One answer and its cost."""

    text: str
    tokens: dict[str, int]
    """``video``, ``video_kept``, ``audio``, ``audio_kept``, ``prompt``, ``prompt_kept``, ``generated``."""
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


@dataclass(frozen=True)
class ModelSettings(CompressionConfig, ReadOptions):
    """Engine, model, compressor and sampling as plain data, so that other machines can load the same engine."""

    model: str = "nano"
    device: str = "auto"
    """``auto`` for the best device of this machine, or ``cpu``, ``cuda``, ``cuda:N``, ``mps``."""
    dtype: str | None = None
    attn_implementation: str | None = None
    max_new_tokens: int = 256
    engine: str = "transformers"
    """``transformers`` or ``vllm``."""
    vllm_args: tuple[str, ...] = ()
    """Further command-line flags for vLLM."""

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that must not change during a run, JSON-ready.

        Of the device only its type is included, because cuda:1 answers as cuda:0. Flags of vLLM are left out, so that
        failed clips can be retried with more memory or a longer context.
        """
        from omnisift.pipeline.devices import resolve_device

        device = resolve_device().type if self.device == "auto" else self.device.partition(":")[0]
        fixed = asdict(self) | {"device": device}
        del fixed["vllm_args"]
        return fixed

    def check(self) -> None:
        """Check the values before any clip is read.

        Raises:
            BudgetError: a fraction is outside (0, 1], or the combination is incomplete or ambiguous.
            UsageError: a value is out of range, or does not fit the engine or the method.
        """
        if self.engine not in ("transformers", "vllm"):
            raise UsageError(f"engine must be transformers or vllm, got {self.engine!r}")
        if self.engine == "vllm" and self.attn_implementation is not None:
            raise UsageError(
                "attn_implementation is for Transformers; give vLLM its own flag, --attention-backend, after --"
            )
        if self.engine != "vllm" and self.vllm_args:
            raise UsageError(f"{self.vllm_args[0]!r} is a flag for vLLM; leave it out, or give --engine vllm")
        CompressionConfig.check(self)
        ReadOptions.check(self)

    def load(self) -> Engine:
        """Load the engine.

        Raises:
            OmniSiftError: as `omnisift.load`, or because model and compressor don't fit together.
        """
        self.check()
        if self.engine == "vllm":
            from omnisift.batch.vllm_engine import VllmEngine

            return VllmEngine(self)
        from omnisift.models import attach
        from omnisift.pipeline import load

        pipeline = load(
            self.model,
            **self.compression,
            device=self.device,
            dtype=self.dtype,
            attn_implementation=self.attn_implementation,
        )
        if pipeline.compressor is not None:
            with attach(pipeline.host.thinker, pipeline.compressor):
                pass  # raises here, once, if the adapter can't supply what the compressor needs
        return ModelEngine(pipeline, self)


class ModelEngine:
    """A `Pipeline` as an `Engine`: each clip is read once, however many questions there are."""

    def __init__(self, pipeline: Pipeline, settings: ModelSettings) -> None:
        self.pipeline = pipeline
        self.settings = settings

    def ask(self, clip: Path, questions: Sequence[str]) -> list[EngineAnswer]:
        """Answer each question about a clip; see `Engine.ask`.

        Raises:
            TooBig: the clip does not fit into the device's memory.
            EngineLost: the device failed.
        """
        import torch

        settings, start = self.settings, time.perf_counter()
        try:
            media = self.pipeline.read(clip, **settings.reading)
            read_seconds = time.perf_counter() - start
            # The time to read the clip counts for the first question only.
            return [
                self._answer(media, question, 0.0 if index else read_seconds)
                for index, question in enumerate(questions)
            ]
        except torch.OutOfMemoryError:
            raise TooBig(f"{clip}: too long for this device's memory; lower --max-frames, --fps or --retain") from None
        except torch.AcceleratorError as error:
            reason = str(error).strip().splitlines()[0]
            raise EngineLost(
                f"{clip}: device error ({reason}); rerun the same command to resume after this clip"
            ) from error

    def _answer(self, media: Media, question: str, read_seconds: float) -> EngineAnswer:
        answer: Answer = self.pipeline.ask(media, question, max_new_tokens=self.settings.max_new_tokens)
        report = answer.to_dict()
        total = report["seconds"]["total"] + read_seconds
        seconds = report["seconds"] | {"read": read_seconds, "total": total}
        source = source_fields(answer.report.source)
        return EngineAnswer(answer.text, report["tokens"], seconds, source, answer.report.notices)


def source_fields(source: Source) -> dict[str, Any]:
    """Return the fields of ``source`` for `EngineAnswer.source`, without the path: a row names its clip itself."""
    return {name: value for name, value in asdict(source).items() if name != "path"}
