"""vLLM as the engine of a run: several clips in hand at once, all their questions computed together."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, cast

from omnisift.batch.engine import Reply, seen
from omnisift.media import Media
from omnisift.pipeline.clip_info import notices_of, source_of
from omnisift.pipeline.prompt import read_for
from omnisift.serving.offline import Offline, VllmAnswer
from omnisift.serving.vllm.settings import Settings

if TYPE_CHECKING:
    from omnisift.batch.engine import ModelSettings
    from omnisift.media.reading import Sampling

READERS = 4
"""Clips that are read at the same time."""


class VllmEngine:
    """vLLM in this process (docs/serving.md says which models and methods it takes). An `EngineOfMany`."""

    def __init__(self, settings: ModelSettings) -> None:
        """Start it. Raises `OmniSiftError` as `Offline` does."""
        how = Settings(
            settings.compressor,
            settings.retain,
            settings.retain_video,
            settings.retain_audio,
            selector=settings.selector,
            seed=settings.seed,
        ).checked()
        self.settings = settings
        self.offline = Offline(settings.model, how, device=settings.device, dtype=settings.dtype, more=settings.vllm)

    def ask(self, clip: Path, questions: Sequence[str]) -> list[Reply]:
        """See `omnisift.batch.Engine.ask`."""
        found = self.ask_many([(clip, questions)])[0]
        if isinstance(found, Exception):
            raise found
        return found

    def ask_many(self, asked: Sequence[tuple[Path, Sequence[str]]]) -> list[list[Reply] | Exception]:
        """See `omnisift.batch.EngineOfMany.ask_many`."""
        with ThreadPoolExecutor(READERS) as pool:
            read = list(pool.map(self._read, (clip for clip, _ in asked)))
        clips = [(media, questions) for (media, _), (_, questions) in zip(read, asked, strict=True)]
        begin = time.perf_counter()
        good = [(media, questions) for media, questions in clips if isinstance(media, Media)]
        answers = iter(self.offline.ask(good, self.settings.max_new_tokens))
        # All are computed together, so each question is told an equal share of the time.
        share = (time.perf_counter() - begin) / max(1, sum(len(questions) for _, questions in good))
        return [
            media if isinstance(media, Exception) else self._replies(media, next(answers), seconds, share)
            for media, seconds in read
        ]

    def _read(self, clip: Path) -> tuple[Media | Exception, float]:
        """The clip, or what is wrong with it, and the seconds that it took."""
        how, begin = self.settings, time.perf_counter()
        try:
            media: Media | Exception = read_for(
                self.offline.processor,
                clip,
                max_pixels=how.max_pixels,
                fps=how.fps,
                max_frames=how.max_frames,
                sampling=cast("Sampling", how.sampling),
            )
        except Exception as error:  # about this clip alone, whatever it is: the runner makes a row of it
            media = error
        return media, time.perf_counter() - begin

    def _replies(
        self, media: Media, said: list[VllmAnswer] | Exception, read: float, share: float
    ) -> list[Reply] | Exception:
        if isinstance(said, Exception):
            return said
        source = seen(source_of(media))
        compressing = self.settings.compressor != "none"
        notices = notices_of(media, is_nano=self.offline.is_nano, compressing=compressing)
        replies = []
        for number, answer in enumerate(said):
            spent = 0.0 if number else read  # the first question pays for the reading
            seconds = {"read": spent, "answer": share, "total": spent + share}
            tokens = asdict(answer.tokens) | {"prompt_kept": answer.tokens.prompt_kept}
            replies.append(Reply(answer.text, tokens, seconds, source, notices))
        return replies
