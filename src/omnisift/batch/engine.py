"""The engines of a batch run: the `Engine` protocol, the settings that load one, and `Pipeline` as an engine.

The other engine is vLLM (`omnisift.batch.vllm_engine`). Any object with `Engine.ask` can be given to `run`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from omnisift.errors import EngineLost, TooBig, UsageError

if TYPE_CHECKING:
    from omnisift.media.reading import Sampling
    from omnisift.pipeline import Answer, EncodedClip, Pipeline
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
class ModelSettings:
    """Engine, model, compressor and sampling as plain data, so that other machines can load the same engine."""

    model: str = "nano"
    compressor: str = "omnisift"
    """Name of a method, or ``none`` to read every token."""
    retain: float | None = None
    retain_video: float | None = None
    retain_audio: float | None = None
    selector: str | None = None
    device: str = "auto"
    """``auto`` for the best device of this machine, or ``cpu``, ``cuda``, ``cuda:N``, ``mps``."""
    dtype: str | None = None
    attn_implementation: str | None = None
    seed: int = 0
    fps: float = 2.0
    max_frames: int = 256
    max_pixels: int | None = None
    sampling: str = "time"
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
            UsageError: a value is out of range, or does not fit the engine.
        """
        from omnisift.media import smart_size
        from omnisift.media.sampling import check_numbers

        if self.engine not in ("transformers", "vllm"):
            raise UsageError(f"engine must be transformers or vllm, got {self.engine!r}")
        if self.engine == "vllm" and self.attn_implementation is not None:
            raise UsageError(
                "attn_implementation is for Transformers; give vLLM its own flag, --attention-backend, after --"
            )
        if self.engine != "vllm" and self.vllm_args:
            raise UsageError(f"{self.vllm_args[0]!r} is a flag for vLLM; leave it out, or give --engine vllm")
        if self.sampling not in ("time", "qwen"):
            raise UsageError(f"sampling must be time or qwen, got {self.sampling!r}")
        check_numbers(self.fps, self.max_frames, 0.0, None, 1.0)
        if self.max_pixels is not None:
            smart_size(28, 28, min_pixels=1, max_pixels=self.max_pixels)

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
            compressor=self.compressor,
            retain=self.retain,
            retain_video=self.retain_video,
            retain_audio=self.retain_audio,
            selector=self.selector,
            seed=self.seed,
            device=self.device,
            dtype=self.dtype,
            attn_implementation=self.attn_implementation,
        )
        if pipeline.compressor is not None:
            with attach(pipeline.host.thinker, pipeline.compressor):
                pass  # raises here, once, if the adapter can't supply what the compressor needs
        return ModelEngine(pipeline, self)


class ModelEngine:
    """A `Pipeline` as an `Engine`. The latest clip stays encoded, so that further questions about it need no encoder.

    A row says what its own questions cost: those about a clip that is read and encoded already cost less.
    """

    def __init__(self, pipeline: Pipeline, settings: ModelSettings) -> None:
        from omnisift.pipeline.encoded_clip import EncodedClipCache

        self.pipeline = pipeline
        self.settings = settings
        self._clips = EncodedClipCache(max_clips=1)

    def ask(self, clip: Path, questions: Sequence[str]) -> list[EngineAnswer]:
        """Answer each question about a clip; see `Engine.ask`.

        Raises:
            TooBig: the clip does not fit into the device's memory.
            EngineLost: the device failed.
        """
        import torch

        try:
            encoded = self._clips.get(clip, self._encode)
            return [self._answer(encoded, question) for question in questions]
        except torch.OutOfMemoryError:
            self._clips.clear()
            raise TooBig(f"{clip}: too long for this device's memory; lower --max-frames, --fps or --retain") from None
        except torch.AcceleratorError as error:
            reason = str(error).strip().splitlines()[0]
            raise EngineLost(
                f"{clip}: device error ({reason}); rerun the same command to resume after this clip"
            ) from error

    def _encode(self, clip: Path) -> EncodedClip:
        settings = self.settings
        return self.pipeline.encode(
            clip,
            fps=settings.fps,
            max_frames=settings.max_frames,
            max_pixels=settings.max_pixels,
            sampling=cast("Sampling", settings.sampling),
        )

    def _answer(self, clip: EncodedClip, question: str) -> EngineAnswer:
        # The time to read the clip counts for its first question only.
        read_seconds = 0.0 if clip.is_encoded else clip.read_seconds
        answer: Answer = self.pipeline.ask(clip, question, max_new_tokens=self.settings.max_new_tokens)
        report = answer.to_dict()
        total = report["seconds"]["total"] + read_seconds
        seconds = report["seconds"] | {"read": read_seconds, "total": total}
        source = source_fields(answer.report.source)
        return EngineAnswer(answer.text, report["tokens"], seconds, source, answer.report.notices)


def source_fields(source: Source) -> dict[str, Any]:
    """Return the fields of ``source`` for `EngineAnswer.source`, without the path: a row names its clip itself."""
    return {name: value for name, value in asdict(source).items() if name != "path"}
