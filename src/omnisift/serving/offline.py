"""vLLM inside this process, for many clips and no server: prompts compressed as those of `omnisift serve`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnisift.assets import nano_path
from omnisift.errors import EngineLost, TooBig, UsageError
from omnisift.media import Media
from omnisift.pipeline.clip_info import count_tokens
from omnisift.pipeline.prompt import prompt_text
from omnisift.pipeline.report import Tokens
from omnisift.serving.full_checkpoint import dress
from omnisift.serving.media_limits import as_item
from omnisift.serving.vllm_startup import NO_MEDIA_CACHE, check_vllm, check_weights, given_memory, overrides

if TYPE_CHECKING:
    from omnisift.serving.vllm.settings import Settings

_TOO_LONG = "longer than the maximum"
"""In what vLLM says of a prompt that has no room."""

LONGEST = 300
"""Characters of what vLLM says when it does not start."""


@dataclass(frozen=True)
class VllmAnswer:
    """One answer."""

    text: str
    tokens: Tokens


class Offline:
    """A model in vLLM that answers questions about decoded clips, many at once; greedy decoding."""

    def __init__(
        self,
        model: str,
        settings: Settings,
        *,
        device: str = "cpu",
        dtype: str | None = None,
        more: Sequence[str] = (),
    ) -> None:
        """Start vLLM with ``model`` (``nano``, a folder or a hub id of a full Qwen2.5-Omni).

        vLLM reads this process' environment; variables of its own that are not set there are set: no process beside
        this one, no report of use, errors alone in its log.

        Args:
            settings: compressor and budget, as for the server.
            device: ``cpu`` or ``cuda``: what the installed vLLM was built for. It chooses GPUs by CUDA_VISIBLE_DEVICES.
            dtype: None means float32 on a CPU, bfloat16 elsewhere.
            more: flags of vLLM's own command line, as ``("--max-model-len", "4096")``.

        Raises:
            OmniSiftError: no vLLM, one for another device, or weights and method that don't fit.
        """
        check_vllm()
        for name, value in {**_ENVIRONMENT, **given_memory(model)}.items():
            os.environ.setdefault(name, value)
        _check_device(device)
        self.is_nano = model == "nano"
        self._room = tempfile.TemporaryDirectory(prefix="omnisift-")
        source = model
        if self.is_nano:
            source = str(Path(self._room.name) / "nano")
            dress(nano_path(), Path(source))
        check_weights(source, settings)
        self.llm = _start(source, settings, dtype or ("float32" if device == "cpu" else "bfloat16"), more)
        self.processor = _processor(source)

    def ask(self, asked: Sequence[tuple[Media, Sequence[str]]], most: int) -> list[list[VllmAnswer] | Exception]:
        """For each clip one answer to each of its questions, all computed together; or why vLLM refused the clip.

        ``most`` is how many tokens an answer may have.

        Raises:
            EngineLost: vLLM broke down and can't be asked again.
        """
        queued = [self._queue(media, questions, most) for media, questions in asked]
        try:
            outputs = iter(self.llm.wait_for_completion(use_tqdm=False))  # in the order in which they were queued
        except Exception as error:
            raise EngineLost(f"vLLM failed ({_first_line(error)}); the same command goes on behind it") from error
        return [
            refused or [self._said(media, next(outputs)) for _ in questions]
            for (media, questions), refused in zip(asked, queued, strict=True)
        ]

    def _queue(self, media: Media, questions: Sequence[str], most: int) -> Exception | None:
        """None, or why vLLM takes none of these prompts."""
        from vllm import SamplingParams

        if media.has_video:
            data: dict[str, Any] = {"video": [as_item(media)]}
        else:
            data = {"audio": [media.waveform]}
        try:
            texts = [prompt_text(self.processor, media, question) for question in questions]
            prompts = [{"prompt": text, "multi_modal_data": data} for text in texts]
            self.llm.enqueue(prompts, SamplingParams(temperature=0, max_tokens=most), use_tqdm=False)
        except Exception as error:  # nothing is queued then, and other clips have no part in it
            return _refusal(media, error)
        return None

    def _said(self, media: Media, output: Any) -> VllmAnswer:
        config = self.llm.model_config.hf_config
        config = getattr(config, "thinker_config", config)
        ids = output.prompt_token_ids
        video, audio = count_tokens(media, self.processor)
        kept_video, kept_audio = ids.count(config.video_token_index), ids.count(config.audio_token_index)
        prompt = len(ids) - kept_video - kept_audio + video + audio
        answer = output.outputs[0]
        tokens = Tokens(video, kept_video, audio, kept_audio, prompt, len(answer.token_ids))
        return VllmAnswer(answer.text.strip(), tokens)


# One process: then a kill of it leaves none behind that would still hold locks and memory.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def _check_device(device: str) -> None:
    from vllm.platforms import current_platform

    there = str(current_platform.device_type)
    if device != there:
        raise UsageError(f"the vLLM that is installed runs on {there}, got device {device!r}; give --device {there}")


def _start(source: str, settings: Settings, dtype: str, more: Sequence[str]) -> Any:
    from vllm import LLM, EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]  # vLLM is not there when types are checked
        """Says what is wrong instead of leaving the process."""

        def error(self, message: str) -> Any:
            raise UsageError(f"behind -- stand flags of vLLM, and it says: {message}")

    given = ["--model", source, "--hf-overrides", overrides(settings), "--dtype", dtype, *NO_MEDIA_CACHE]
    if not any(flag.partition("=")[0] == "--max-model-len" for flag in more):
        given += ["--max-model-len", "auto"]
    parsed = EngineArgs.add_cli_args(Parser()).parse_args([*given, *more])
    try:
        return LLM.from_engine_args(EngineArgs.from_cli_args(parsed))
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"vLLM does not start: {' '.join(str(error).split())[:LONGEST]}") from error


def _refusal(media: Media, error: Exception) -> Exception:
    from vllm.exceptions import VLLMClientError

    if not isinstance(error, (VLLMClientError, ValueError)):
        return error
    reason = _first_line(error).partition(". ")[0]
    if _TOO_LONG in reason:
        return TooBig(f"{media.path}: {reason}; lower retain, fps or max_frames, or give vLLM a larger --max-model-len")
    return UsageError(f"{media.path}: vLLM refused the prompt ({reason})")


def _processor(source: str) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(source)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
