"""The model that lmms-eval runs: any model and compressor of ours, picture and sound, at the paper's sampling."""

from __future__ import annotations

import inspect
import logging
import time
from typing import Any, Literal

from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms

from omnisift.errors import MediaError, UnsupportedCall, UsageError
from omnisift.integrations.lmms_eval.requests import Records, Request, batches, request_of
from omnisift.media import Media
from omnisift.media.reading import Sampling
from omnisift.pipeline import load
from omnisift.pipeline.ask_batch import Reply, ask_batch, kind
from omnisift.pipeline.prompt import read_for
from omnisift.profiling.flops import prompt

logger = logging.getLogger(__name__)


class OmniSift(lmms):  # type: ignore[misc]  # lmms-eval has no types
    """``--model omnisift``; its arguments are those of ``--model_args``.

    Clips are read by `omnisift.media` and never without their sound. The token count that the harness gets is that of
    the compressed prompt, so its own efficiency report shows the compression.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "nano",
        compressor: str = "omnisift",
        retain: float | None = None,
        retain_video: float | None = None,
        retain_audio: float | None = None,
        selector: str | None = None,
        seed: int = 0,
        dtype: str | None = None,
        attn: str | None = None,
        fps: float = 2.0,
        max_frames: int = 256,
        max_pixels: int | None = None,
        sampling: Sampling = "time",
        system: str | None = None,
        bad_clip: Literal["stop", "wrong"] = "stop",
        records: str | None = None,
        batch_size: int | str = 1,
        device: str | None = None,
        **unknown: Any,
    ) -> None:
        """Load the model.

        Args:
            pretrained: ``nano``, a checkpoint folder, or a hub id.
            compressor: name of a method, or ``none`` to read every token.
            retain, retain_video, retain_audio, selector, seed, dtype, attn: see `omnisift.load`.
            fps, max_frames, max_pixels, sampling: see `omnisift.Pipeline.ask`; the paper's by default.
            system: a system prompt for tasks that bring none; None sends none, as the paper's evaluation does.
            bad_clip: a clip that can't be read ends the run (``stop``), or its questions get an empty answer
                (``wrong``), with a warning each.
            records: folder for one line a request: tokens by kind, seconds, memory.
            batch_size: prompts in one call.
            device: None takes the one that accelerate gives to this process.

        Raises:
            OmniSiftError: one line that says what is wrong and what to do.
        """
        super().__init__()
        if unknown:
            known = [name for name in inspect.signature(type(self)).parameters if name != "unknown"]
            raise UsageError(f"no model argument named {sorted(unknown)[0]!r}; known: {', '.join(known)}")
        if bad_clip not in ("stop", "wrong"):
            raise UsageError(f"bad_clip must be stop or wrong, got {bad_clip!r}")
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.device = str(self.accelerator.device) if device is None or self._world_size > 1 else device
        self.batch_size = _size(batch_size)
        self.bad_clip, self.system = bad_clip, system
        self.reading: dict[str, Any] = {"fps": fps, "max_frames": max_frames, "sampling": sampling}
        self.reading["max_pixels"] = max_pixels
        self.records = Records(records, self._rank)
        self.pipeline = load(
            str(pretrained),
            compressor=None if compressor == "none" else compressor,
            retain=retain,
            retain_video=retain_video,
            retain_audio=retain_audio,
            selector=selector,
            seed=seed,
            device=self.device,
            dtype=dtype,
            attn_implementation=attn,
        )

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answers in the order of the requests, each with the tokens read and written."""
        asked = [request_of(instance.args, self.task_dict) for instance in requests]
        results: list[GenerationResult] = []
        for batch in batches(asked, self.batch_size):
            results += self._answer(batch)
            if self._rank == 0:
                logger.info("answered %d of %d", len(results), len(asked))
        return results

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:  # noqa: ARG002  the harness' own
        """Refused: raises `UnsupportedCall`."""
        raise UnsupportedCall("tasks that compare likelihoods are not supported; choose one of generate_until")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:  # noqa: ARG002
        """Refused: raises `UnsupportedCall`."""
        raise UnsupportedCall("conversations of several rounds are not supported; choose a task of one question")

    def _answer(self, batch: list[Request]) -> list[GenerationResult]:
        """One call for each kind of clip in the batch: with sound, without, sound alone."""
        read = {place: self._read(request) for place, request in enumerate(batch)}
        results = [GenerationResult("", TokenCounts(0, 0))] * len(batch)
        groups: dict[tuple[bool, bool], list[int]] = {}
        for place, (media, _) in read.items():
            if media is not None:
                groups.setdefault(kind(media), []).append(place)
        for places in groups.values():
            asked = [(media, batch[place].text) for place in places if (media := read[place][0]) is not None]
            system = batch[0].system or self.system
            told = ask_batch(self.pipeline, asked, max_new_tokens=batch[0].max_new_tokens, system=system)
            for place, reply in zip(places, told, strict=True):
                spent = prompt(self.pipeline.host.thinker.config, reply.grid, reply.mel, reply.tokens.prompt_kept)
                self.records.add(batch[place], reply, {"read": read[place][1]}, None, spent.weights)
                results[place] = _result(reply, batch[place])
        return results

    def _read(self, request: Request) -> tuple[Media | None, float]:
        """The clip and the seconds that it took; None if it can't be read and ``bad_clip`` is ``wrong``."""
        begin = time.perf_counter()
        try:
            media = read_for(self.pipeline.host.processor, request.clip, **self.reading)
        except MediaError as error:
            if self.bad_clip == "stop":
                raise
            logger.warning("counted as wrong: %s", error)
            self.records.add(request, None, {}, f"{type(error).__name__}: {error}")
            return None, 0.0
        return media, time.perf_counter() - begin


def _result(reply: Reply, request: Request) -> GenerationResult:
    text = reply.text
    for end in request.until:
        text = text.partition(end)[0] if end else text
    return GenerationResult(text, TokenCounts(reply.tokens.prompt_kept, reply.tokens.generated))


def _size(batch_size: int | str) -> int:
    text = str(batch_size)
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"batch_size must be a whole number from 1 on, got {batch_size!r}")
    return int(text)
