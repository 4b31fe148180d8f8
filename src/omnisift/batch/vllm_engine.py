"""vLLM as the engine of a run: several clips are read at the same time and all their questions computed together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from omnisift.batch.engine import EngineAnswer, source_fields
from omnisift.config import CompressionConfig, ReadOptions
from omnisift.media import Media
from omnisift.pipeline.prompt import read_for
from omnisift.pipeline.report import notices_of, source_of
from omnisift.serving.offline import OfflineEngine, VllmAnswer
from omnisift.serving.vllm.settings import Settings

READER_THREADS = 4


class VllmEngine:
    """vLLM in this process, a `BatchEngine`; docs/serving.md lists the models and methods.

    Args:
        model: as `OfflineEngine`.
        compression: the method and its budget.
        reading: how clips are read.
        device: ``cpu`` or ``cuda``, as the installed vLLM was built, or ``auto``.
        dtype: as `OfflineEngine`.
        max_new_tokens: maximum number of generated tokens per answer.
        vllm_args: further command-line flags for vLLM.

    Raises:
        OmniSiftError: as `OfflineEngine`.
    """

    def __init__(
        self,
        model: str,
        compression: CompressionConfig,
        reading: ReadOptions,
        *,
        device: str = "auto",
        dtype: str | None = None,
        max_new_tokens: int = 256,
        vllm_args: tuple[str, ...] = (),
    ) -> None:
        self.compression, self.reading, self.max_new_tokens = compression, reading, max_new_tokens
        settings = Settings(**compression.compression)
        settings.check()
        self.offline = OfflineEngine(model, settings, device=device, dtype=dtype, vllm_args=vllm_args)

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
        answers = iter(self.offline.ask(readable, self.max_new_tokens))
        share = (time.perf_counter() - start) / max(1, sum(len(questions) for _, questions in readable))
        return [
            media if isinstance(media, Exception) else self._engine_answers(media, next(answers), seconds, share)
            for media, seconds in clips
        ]

    def _read(self, clip: Path) -> tuple[Media | Exception, float]:
        """Return the clip, or the exception that reading it raised, and the seconds that it took."""
        start = time.perf_counter()
        try:
            media: Media | Exception = read_for(self.offline.processor, clip, **self.reading.reading)
        except Exception as error:  # of any type: it concerns this clip only, and becomes its row
            media = error
        return media, time.perf_counter() - start

    def _engine_answers(
        self, media: Media, answers: list[VllmAnswer] | Exception, read_seconds: float, share: float
    ) -> list[EngineAnswer] | Exception:
        if isinstance(answers, Exception):
            return answers
        source = source_fields(source_of(media))
        keeps_audio = not self.compression.keeps_all
        notices = notices_of(media, is_nano=self.offline.is_nano, keeps_audio=keeps_audio, can_compress=False)
        engine_answers = []
        for index, answer in enumerate(answers):
            read = 0.0 if index else read_seconds  # the time to read the clip counts for the first question only
            seconds = {"read": read, "answer": share, "total": read + share}
            engine_answers.append(EngineAnswer(answer.text, answer.tokens.to_dict(), seconds, source, notices))
        return engine_answers
