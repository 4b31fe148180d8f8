"""The model class that lmms-eval runs: any model and compressor of OmniSIFT, with video and audio."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms

from omnisift.config import CompressionConfig, ReadOptions, option_names
from omnisift.errors import MediaError, UnsupportedCall, UsageError
from omnisift.integrations.lmms_eval.requests import Request, RequestLog, batches, parse_request
from omnisift.pipeline import Answer, EncodedClip, load
from omnisift.pipeline.encoded_clip import EncodedClipCache
from omnisift.pipeline.held_prompt import HOLD_BYTES
from omnisift.pipeline.prompt import check_prompt, clip_size
from omnisift.profiling.flops import prompt
from omnisift.utils.suggest import meant

logger = logging.getLogger(__name__)


class OmniSift(lmms):  # type: ignore[misc]  # lmms-eval has no types
    """``--model omnisift``; the arguments are those of ``--model_args``.

    Clips are read by `omnisift.media`, always with their audio. Consecutive requests about one clip share its encoding,
    and the keys and values of its compressed prompt up to the question.
    The harness gets the token count of the compressed prompt, so its own efficiency report shows the compression.

    Args:
        pretrained: ``nano``, a checkpoint folder, or a hub id.
        dtype: see `omnisift.load`.
        attn_implementation: see `omnisift.load`.
        system: system prompt of tasks that have none; None sends none, as the paper's evaluation does.
        bad_clip: a clip that can't be read ends the run (``stop``), or its questions get an empty answer and a warning
            (``wrong``).
        records: folder for a log with one line per request: tokens by modality, seconds, memory.
        batch_size: prompts per call.
        device: None takes the device that accelerate assigns to this process.
        attn: old name of ``attn_implementation``.
        max_length: see `omnisift.load`.
        quantization: see `omnisift.load`, by name.
        hold_bytes: see `Pipeline.encode`; 0 reads the whole prompt for every question.
        options: the fields of `omnisift.CompressionConfig` and `omnisift.ReadOptions`.

    Raises:
        OmniSiftError: an argument is wrong, or the model can't be loaded.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "nano",
        dtype: str | None = None,
        attn_implementation: str | None = None,
        system: str | None = None,
        bad_clip: Literal["stop", "wrong"] = "stop",
        records: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        attn: str | None = None,
        max_length: int | None = None,
        quantization: str | None = None,
        hold_bytes: int = HOLD_BYTES,
        **options: Any,
    ) -> None:
        super().__init__()
        shared = [*option_names(CompressionConfig), *option_names(ReadOptions)]
        if unknown := sorted(options.keys() - set(shared)):
            own = [name for name in inspect.signature(type(self)).parameters if name not in ("attn", "options")]
            known = [*own, *shared]
            raise UsageError(
                f"no model argument named {unknown[0]!r}; known: {', '.join(known)}{meant(unknown[0], known)}"
            )
        compression = CompressionConfig(**_chosen(options, CompressionConfig))
        self.read_options = ReadOptions(**_chosen(options, ReadOptions))
        self.read_options.check()
        if bad_clip not in ("stop", "wrong"):
            raise UsageError(f"bad_clip must be stop or wrong, got {bad_clip!r}")
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.device = str(self.accelerator.device) if device is None or self._world_size > 1 else device
        self.batch_size = _parse_batch_size(batch_size)
        self.bad_clip, self.system, self.hold_bytes = bad_clip, system, hold_bytes
        self._clips = EncodedClipCache(max_clips=1)
        self.request_log = RequestLog(records, self._rank)
        self.pipeline = load(
            str(pretrained),
            **compression.compression,
            device=self.device,
            dtype=dtype,
            attn_implementation=attn_implementation or attn,
            max_length=max_length,
            quantization=quantization,
        )
        if self._rank == 0:
            logger.info("method: %s", self.pipeline.method)

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Return the answers in the order of the requests, each with the numbers of tokens read and written."""
        parsed = [parse_request(instance.args, self.task_dict) for instance in requests]
        results: list[GenerationResult] = []
        for request in parsed:  # no question ends a run of hours
            check_prompt(self.pipeline.host.processor, request.text, request.system or self.system)
        for batch in batches(parsed, self.batch_size):
            results += self._answer(batch)
            if self._rank == 0:
                logger.info("answered %d of %d", len(results), len(parsed))
        return results

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:  # noqa: ARG002  the harness' own
        """Raise `UnsupportedCall`."""
        raise UnsupportedCall("tasks that compare likelihoods are not supported; choose one of generate_until")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:  # noqa: ARG002
        """Raise `UnsupportedCall`."""
        raise UnsupportedCall("conversations of several rounds are not supported; choose a task with one question")

    def _answer(self, batch: list[Request]) -> list[GenerationResult]:
        """Answer a batch together, without the requests whose clip can't be read."""
        clips = [self._read(request) for request in batch]
        prompts = [(clip, request.text) for (clip, _), request in zip(clips, batch, strict=True) if clip is not None]
        system = batch[0].system or self.system
        answers = iter(self.pipeline.ask_batch(prompts, max_new_tokens=batch[0].max_new_tokens, system=system))
        host, results = self.pipeline.host, []
        for (clip, read_seconds), request in zip(clips, batch, strict=True):
            if clip is None:
                results.append(GenerationResult("", TokenCounts(0, 0)))
                continue
            answer = next(answers)
            size = clip_size(clip.media, host.processor)
            flops = prompt(host.thinker.config, *size, answer.report.tokens.prompt_kept)
            self.request_log.add(
                request, answer, read_seconds=read_seconds, batch_size=len(prompts), flops=flops.weights
            )
            results.append(_result(answer, request))
        return results

    def _read(self, request: Request) -> tuple[EncodedClip | None, float]:
        """Return the clip and the seconds that reading took; None if it can't be read and ``bad_clip`` is ``wrong``."""
        start = time.perf_counter()
        try:
            clip = self._clips.get(Path(request.clip), self._encode)
        except MediaError as error:
            if self.bad_clip == "stop":
                raise
            logger.warning("counted as wrong: %s", error)
            self.request_log.add(request, None, f"{type(error).__name__}: {error}")
            return None, 0.0
        return clip, time.perf_counter() - start

    def _encode(self, path: Path) -> EncodedClip:
        return self.pipeline.encode(path, **self.read_options.reading, hold_bytes=self.hold_bytes)


def _result(answer: Answer, request: Request) -> GenerationResult:
    text = answer.text
    for end in request.until:
        text = text.partition(end)[0] if end else text
    return GenerationResult(text, TokenCounts(answer.report.tokens.prompt_kept, answer.report.tokens.generated))


def _chosen(options: Mapping[str, Any], record: type) -> dict[str, Any]:
    return {name: options[name] for name in option_names(record) if name in options}


def _parse_batch_size(batch_size: int | str) -> int:
    text = str(batch_size)
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"batch_size must be an integer of at least 1, got {batch_size!r}")
    return int(text)
