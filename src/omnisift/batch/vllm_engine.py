"""vLLM as the engine of a run: several clips are read at the same time and all their questions computed together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

from omnisift.batch.engine import EngineAnswer, source_fields
from omnisift.compressors import reads_all_tokens
from omnisift.media import Media
from omnisift.pipeline.prompt import read_for
from omnisift.pipeline.report import notices_of, source_of
from omnisift.serving.offline import OfflineEngine, VllmAnswer
from omnisift.serving.vllm.settings import Settings

if TYPE_CHECKING:
    from omnisift.batch.engine import ModelSettings
    from omnisift.media.reading import Sampling

READER_THREADS = 4


class VllmEngine:
    """vLLM in this process, a `BatchEngine`; docs/serving.md lists the models and methods.

    Raises:
        OmniSiftError: as `OfflineEngine`.
    """

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        compression = Settings(
            settings.compressor,
            settings.retain,
            settings.retain_video,
            settings.retain_audio,
            selector=settings.selector,
            seed=settings.seed,
        ).checked()
        self.offline = OfflineEngine(
            settings.model,
            compression,
            device=settings.device,
            dtype=settings.dtype,
            vllm_args=settings.vllm_args,
        )

    def ask(self, clip: Path, questions: Sequence[str]) -> list[EngineAnswer]:
        """Answer each question about a clip; see `omnisift.batch.Engine.ask`."""
        answers = self.ask_batch([(clip, questions)])[0]
        if isinstance(answers, Exception):
            raise answers
        return answers

    def ask_batch(self, requests: Sequence[tuple[Path, Sequence[str]]]) -> list[list[EngineAnswer] | Exception]:
        """Answer the questions about several clips; see `omnisift.batch.BatchEngine.ask_batch`."""
        # Read all clips; those that can't be read become exceptions.
        with ThreadPoolExecutor(READER_THREADS) as pool:
            clips = list(pool.map(self._read, (clip for clip, _ in requests)))
        readable = [
            (media, questions)
            for (media, _), (_, questions) in zip(clips, requests, strict=True)
            if isinstance(media, Media)
        ]
        # Answer all questions in one call; each of them gets an equal share of its time.
        start = time.perf_counter()
        answers = iter(self.offline.ask(readable, self.settings.max_new_tokens))
        share = (time.perf_counter() - start) / max(1, sum(len(questions) for _, questions in readable))
        return [
            media if isinstance(media, Exception) else self._engine_answers(media, next(answers), seconds, share)
            for media, seconds in clips
        ]

    def _read(self, clip: Path) -> tuple[Media | Exception, float]:
        """Return the clip, or the exception that reading it raised, and the seconds that it took."""
        settings, start = self.settings, time.perf_counter()
        try:
            media: Media | Exception = read_for(
                self.offline.processor,
                clip,
                max_pixels=settings.max_pixels,
                fps=settings.fps,
                max_frames=settings.max_frames,
                sampling=cast("Sampling", settings.sampling),
            )
        except Exception as error:  # of any type: it concerns this clip only, and becomes its row
            media = error
        return media, time.perf_counter() - start

    def _engine_answers(
        self, media: Media, answers: list[VllmAnswer] | Exception, read_seconds: float, share: float
    ) -> list[EngineAnswer] | Exception:
        if isinstance(answers, Exception):
            return answers
        source = source_fields(source_of(media))
        compressing = not reads_all_tokens(self.settings.compressor)
        notices = notices_of(media, is_nano=self.offline.is_nano, compressing=compressing)
        engine_answers = []
        for index, answer in enumerate(answers):
            read = 0.0 if index else read_seconds  # the time to read the clip counts for the first question only
            seconds = {"read": read, "answer": share, "total": read + share}
            tokens = asdict(answer.tokens) | {"prompt_kept": answer.tokens.prompt_kept}
            engine_answers.append(EngineAnswer(answer.text, tokens, seconds, source, notices))
        return engine_answers
