"""vLLM inside this process, without a server: many clips at once, compressed as by `omnisift serve`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnisift.errors import EngineLost, OmniSiftError, TooBig, UsageError
from omnisift.media import Media
from omnisift.pipeline.loading import read_processor
from omnisift.pipeline.method import resolve_settings
from omnisift.pipeline.prompt import clip_size, prompt_text
from omnisift.pipeline.report import Tokens
from omnisift.serving.clip_layout import TimeConfig
from omnisift.serving.full_checkpoint import wrap_as_full_checkpoint
from omnisift.serving.media_limits import as_vllm_video
from omnisift.serving.vllm_startup import (
    NO_MEDIA_CACHE,
    cache_memory,
    check_vllm,
    check_weights,
    hf_overrides,
    served_family,
)
from omnisift.utils.assets import nano_path
from omnisift.utils.questions import check_max_new_tokens

if TYPE_CHECKING:
    from omnisift.serving.vllm.settings import Settings

_TOO_LONG = "longer than the maximum"
"""Part of vLLM's message about a prompt that exceeds the context."""
MAX_MESSAGE = 300
"""Characters of vLLM's message when it does not start."""

# One process, so that killing it leaves no second one that still holds locks and memory.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


@dataclass(frozen=True)
class VllmAnswer:
    """One answer."""

    text: str
    tokens: Tokens


class OfflineEngine:
    """A model in vLLM that answers questions about decoded clips; greedy decoding.

    vLLM reads the environment of this process. Variables of vLLM that are not set there are set: no second process, no
    usage reports, only errors in its log.

    Args:
        model: ``nano``, or folder or hub id of a full Qwen2.5-Omni or Qwen3-Omni checkpoint.
        settings: compressor and budget, as for the server.
        device: ``cpu`` or ``cuda``, as the installed vLLM was built, or ``auto``. CUDA_VISIBLE_DEVICES chooses the GPU.
        dtype: None for float32 on a CPU, bfloat16 elsewhere.
        vllm_args: flags of vLLM's command line, for example ``("--max-model-len", "4096")``.

    Raises:
        OmniSiftError: vLLM is missing or built for another device, or model and compressor can't be used.
    """

    def __init__(
        self,
        model: str,
        settings: Settings,
        *,
        device: str = "auto",
        dtype: str | None = None,
        vllm_args: Sequence[str] = (),
    ) -> None:
        self.is_nano = model == "nano"
        if not self.is_nano:
            served_family(model)
        check_vllm()
        settings, _ = resolve_settings(settings, model)
        for name, value in {**_ENVIRONMENT, **cache_memory(model)}.items():
            os.environ.setdefault(name, value)
        device = _resolve_device(device)
        self._folder = tempfile.TemporaryDirectory(prefix="omnisift-")
        source = model
        if self.is_nano:
            source = str(Path(self._folder.name) / "nano")
            wrap_as_full_checkpoint(nano_path(), Path(source))
        check_weights(source, settings)
        self.llm = _start(source, settings, dtype or ("float32" if device == "cpu" else "bfloat16"), vllm_args)
        self.processor = read_processor(source)

    def ask(
        self, requests: Sequence[tuple[Media, Sequence[str]]], max_new_tokens: int
    ) -> list[list[VllmAnswer] | Exception]:
        """Answer all questions about all clips in one computation.

        Args:
            requests: pairs of a clip and its questions.
            max_new_tokens: length limit of an answer.

        Returns:
            For each clip one answer per question, or the exception that says why vLLM refused its prompts.

        Raises:
            EngineLost: vLLM failed and can't be used again.
            UsageError: ``max_new_tokens`` is no integer of at least 1.
        """
        check_max_new_tokens(max_new_tokens)
        refusals = [self._enqueue(media, questions, max_new_tokens) for media, questions in requests]
        try:
            outputs = iter(self.llm.wait_for_completion(use_tqdm=False))  # in the order of the queue
        except Exception as error:
            raise EngineLost(f"vLLM failed ({_first_line(error)}); rerun the same command to resume") from error
        return [
            refusal or [self._answer(media, next(outputs)) for _ in questions]
            for (media, questions), refusal in zip(requests, refusals, strict=True)
        ]

    def _enqueue(self, media: Media, questions: Sequence[str], max_new_tokens: int) -> Exception | None:
        """Queue the prompts of one clip; returns why vLLM refused them, None if it did not."""
        from vllm import SamplingParams

        if media.has_video:
            data: dict[str, Any] = {"video": [as_vllm_video(media)]}
        else:
            data = {"audio": [media.waveform]}
        try:
            texts = [prompt_text(self.processor, media, question) for question in questions]
            prompts = [{"prompt": text, "multi_modal_data": data} for text in texts]
            self.llm.enqueue(prompts, SamplingParams(temperature=0, max_tokens=max_new_tokens), use_tqdm=False)
        except Exception as error:  # nothing of this clip is queued, and the other clips are not affected
            return _refusal(media, error)
        return None

    def _answer(self, media: Media, output: Any) -> VllmAnswer:
        config = self.llm.model_config.hf_config
        config = getattr(config, "thinker_config", config)
        # The prompt holds one placeholder per kept token; the tokens before compression follow from the clip.
        ids = output.prompt_token_ids
        (frames, rows, columns), mel_frames = clip_size(media, self.processor)
        video, audio = frames * rows * columns, TimeConfig.of(config).audio_tokens(mel_frames)
        kept_video, kept_audio = ids.count(config.video_token_id), ids.count(config.audio_token_id)
        prompt = len(ids) - kept_video - kept_audio + video + audio
        completion = output.outputs[0]
        tokens = Tokens(video, kept_video, audio, kept_audio, prompt, len(completion.token_ids))
        return VllmAnswer(completion.text.strip(), tokens)


def _resolve_device(device: str) -> str:
    from omnisift.serving.vllm.internals import current_platform

    built_for = str(current_platform.device_type)
    if device not in ("auto", built_for):
        raise UsageError(f"the installed vLLM runs on {built_for}, got device {device!r}; give --device {built_for}")
    return built_for


def _start(source: str, settings: Settings, dtype: str, vllm_args: Sequence[str]) -> Any:
    from vllm import LLM, EngineArgs

    from omnisift.serving.vllm.internals import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]  # vLLM is not installed when types are checked
        """Raises an error where argparse would exit."""

        def error(self, message: str) -> Any:
            raise UsageError(f"vLLM refuses the flags after --: {message}")

    arguments = ["--model", source, "--hf-overrides", hf_overrides(source, settings), "--dtype", dtype, *NO_MEDIA_CACHE]
    if not any(flag.partition("=")[0] == "--max-model-len" for flag in vllm_args):
        arguments += ["--max-model-len", "auto"]
    parsed = EngineArgs.add_cli_args(Parser()).parse_args([*arguments, *vllm_args])
    try:
        return LLM.from_engine_args(EngineArgs.from_cli_args(parsed))
    except OmniSiftError:
        raise
    except Exception as error:  # flags and checkpoints that vLLM can't use here fail with errors of any type
        raise UsageError(f"vLLM does not start: {' '.join(str(error).split())[:MAX_MESSAGE]}") from error


def _refusal(media: Media, error: Exception) -> Exception:
    from omnisift.serving.vllm.internals import VLLMClientError

    if not isinstance(error, (VLLMClientError, ValueError)):
        return error
    reason = _first_line(error).partition(". ")[0]
    if _TOO_LONG in reason:
        return TooBig(
            f"{media.path}: {reason}; lower retain or tokens, fps or max_frames, or give vLLM a larger --max-model-len"
        )
    return UsageError(f"{media.path}: vLLM refused the prompt ({reason})")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
