"""The settings that load an engine, and `Pipeline` as one; the other engine is vLLM (`omnisift.batch.vllm_engine`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnisift.batch.engine import Engine, EngineAnswer, source_fields
from omnisift.config import WORK_LIMITS, CompressionConfig, EncodingOptions, ReadOptions, TextOptions
from omnisift.errors import EngineLost, TooBig, UsageError
from omnisift.utils.questions import check_max_new_tokens

if TYPE_CHECKING:
    from omnisift.pipeline import Answer, EncodedClip, Pipeline

_NEW = frozenset(
    {"tokens", "compress_audio", "retain_encoded", "still_threshold", "text", "retain_text", "quantization"}
)


@dataclass(frozen=True)
class ModelSettings(CompressionConfig, EncodingOptions, ReadOptions, TextOptions):
    """Engine, model, compressor and sampling as plain data, so that other machines can load the same engine."""

    model: str = "nano"
    device: str = "auto"
    """``auto`` for the best device of this machine, or ``cpu``, ``cuda``, ``cuda:N``, ``mps``."""
    dtype: str | None = None
    attn_implementation: str | None = None
    max_length: int | None = None
    """Maximum tokens of a prompt, after compression, and its answer; None for the model's context."""
    quantization: str | None = None
    """As `omnisift.load` takes it, by name."""
    max_new_tokens: int = 256
    engine: str = "transformers"
    """``transformers`` or ``vllm``."""
    vllm_args: tuple[str, ...] = ()
    """Further command-line flags for vLLM."""

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that must not change during a run, JSON-ready.

        Of the device only its type is included, because cuda:1 answers as cuda:0. Flags of vLLM and limits on the work
        are left out, so that failed clips can be retried with more memory, a longer context or more time. The default
        method is included by its name, so that no run resumes with another one.

        Raises:
            OmniSiftError: the method is the default, and the model is not found or not supported.
        """
        from omnisift.pipeline.devices import resolve_device
        from omnisift.pipeline.method import resolve_settings

        device = resolve_device().type if self.device == "auto" else self.device.partition(":")[0]
        fixed = asdict(resolve_settings(self, self.model)[0]) | {"device": device}
        for name in ("vllm_args", "max_length", *WORK_LIMITS):
            del fixed[name]
        # Runs of earlier versions lack these entries, so they are stored only where they are given.
        return {name: value for name, value in fixed.items() if name not in _NEW or value != getattr(type(self), name)}

    def check(self) -> None:
        """Check the values before any clip is read.

        Raises:
            BudgetError: a value is out of range, or the combination is incomplete or ambiguous.
            UsageError: a value is out of range, or does not fit the engine or the method.
        """
        if self.engine not in ("transformers", "vllm"):
            raise UsageError(f"engine must be transformers or vllm, got {self.engine!r}")
        if self.engine == "vllm" and self.attn_implementation is not None:
            raise UsageError(
                "attn_implementation is for Transformers; give vLLM its own flag, --attention-backend, after --"
            )
        if self.engine == "vllm" and self.max_length is not None:
            raise UsageError("max_length is for Transformers; give vLLM its own flag, --max-model-len, after --")
        if self.engine == "vllm" and self.quantization is not None:
            raise UsageError(
                "quantization is for Transformers; give vLLM a quantised checkpoint, or its own --quantization after --"
            )
        if self.engine == "vllm" and self.compress_audio:
            raise UsageError(
                "compress_audio is for Transformers; vLLM keeps audio outside a video in full: leave it out"
            )
        if self.engine == "vllm" and not (self.retain_encoded is self.still_threshold is None):
            raise UsageError(
                "retain_encoded and still_threshold are for Transformers; vLLM encodes all: leave them out"
            )
        if self.engine == "vllm" and self.text is not None:
            raise UsageError("text is for Transformers; vLLM reads no subtitles: leave it out")
        if self.engine != "vllm" and self.vllm_args:
            raise UsageError(f"{self.vllm_args[0]!r} is a flag for vLLM; leave it out, or give --engine vllm")
        check_max_new_tokens(self.max_new_tokens)
        CompressionConfig.check(self)
        self.check_encoding(compresses=not self.keeps_all)
        ReadOptions.check(self)
        self.check_text()

    def load(self) -> Engine:
        """Load the engine.

        Raises:
            OmniSiftError: as `omnisift.load`, or because model and compressor don't fit together.
        """
        self.check()
        if self.engine == "vllm":
            from omnisift.batch.vllm_engine import VllmEngine

            return VllmEngine(
                self.model,
                compression=self,
                reading=self,
                device=self.device,
                dtype=self.dtype,
                max_new_tokens=self.max_new_tokens,
                vllm_args=self.vllm_args,
            )
        from omnisift.models import attach
        from omnisift.pipeline import load

        pipeline = load(
            self.model,
            **self.compression,
            **self.encoding,
            retain_text=self.retain_text,
            device=self.device,
            dtype=self.dtype,
            attn_implementation=self.attn_implementation,
            max_length=self.max_length,
            quantization=self.quantization,
        )
        if pipeline.compressor is not None:
            with attach(pipeline.host.thinker, pipeline.compressor):
                pass  # raises here, once, if the adapter can't supply what the compressor needs
        return ModelEngine(pipeline, self)


class ModelEngine:
    """A `Pipeline` as an `Engine`. The latest clip stays encoded and holds its prompt: see `EncodedClip`.

    A row says what its own questions cost: those about a clip that is read and encoded already cost less.

    Args:
        pipeline: the model and the method.
        settings: how clips are read and answered.
        hold_bytes: as `Pipeline.encode` takes it; None for its default.
    """

    def __init__(self, pipeline: Pipeline, settings: ModelSettings, hold_bytes: int | None = None) -> None:
        from omnisift.pipeline.encoded_clip import EncodedClipCache

        self.pipeline = pipeline
        self.settings = settings
        self._holding: dict[str, Any] = {} if hold_bytes is None else {"hold_bytes": hold_bytes}
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
            raise TooBig(
                f"{clip}: too long for this device's memory; lower --max-frames, --fps, --retain or --tokens"
            ) from None
        except torch.AcceleratorError as error:
            reason = str(error).strip().splitlines()[0]
            raise EngineLost(
                f"{clip}: device error ({reason}); rerun the same command to resume after this clip"
            ) from error

    def _encode(self, clip: Path) -> EncodedClip:
        return self.pipeline.encode(clip, **self.settings.reading, text=self.settings.text, **self._holding)

    def _answer(self, clip: EncodedClip, question: str) -> EngineAnswer:
        # The time to read the clip counts for its first question only.
        opening = 0.0 if clip.is_encoded else clip.read_seconds
        answer: Answer = self.pipeline.ask(clip, question, max_new_tokens=self.settings.max_new_tokens)
        report = answer.to_dict()
        added = {name: report["seconds"][name] + opening for name in ("read", "total")}
        seconds = report["seconds"] | added
        source = source_fields(answer.report.source)
        tokens = report["tokens"] | {"prompt_cached": answer.report.cached_tokens}
        if answer.report.encoded_tokens is not None:
            tokens["video_encoded"] = answer.report.encoded_tokens
        return EngineAnswer(answer.text, tokens, seconds, source, answer.report.notices)
