"""Collate samples into batches: read their clips, and skip, count and name those that can't be used."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omnisift.config import WORK_LIMITS, ReadOptions
from omnisift.errors import CheckpointError, MediaError, UsageError
from omnisift.media import SAMPLE_RATE, Media
from omnisift.models.prompt_cut import IGNORE_INDEX
from omnisift.pipeline.clip_format import hears, pixel_limits
from omnisift.pipeline.prompt import join_rows, read_for
from omnisift.training.data.cache import ClipCache
from omnisift.training.data.encoding import encode_sample
from omnisift.training.data.samples import Reading, Sample, Turn
from omnisift.utils.questions import check_text
from omnisift.utils.special_tokens import SpecialTokens

logger = logging.getLogger(__name__)


class Collator:
    """Makes one left-padded batch from a list of samples.

    A clip that can't be read, is too long or makes too many tokens is skipped, with its reason in `skipped`. A batch of
    which nothing is left becomes one short row without labels, so that distributed processes stay in step.

    The host has one switch for the audio of all videos in a call. In a batch where some clips have audio, the others
    therefore get a silent track (counted in `silenced`); with one row per batch this never happens.

    Args:
        processor: the host's processor.
        reading: how clips are read.
        cache: where decoded clips are kept; None decodes them every time.
        system: system turn for conversations that have none.
        max_tokens: samples with more tokens, before compression, are skipped.

    Raises:
        UsageError: ``system`` contains a special token of the model.
    """

    def __init__(
        self,
        processor: Any,
        reading: Reading | None = None,
        cache: ClipCache | None = None,
        system: str | None = None,
        max_tokens: int | None = None,
    ) -> None:
        if system is not None:
            check_text(system, "the recipe's system", SpecialTokens.of(processor.tokenizer))
        self.processor, self.cache, self.system, self.max_tokens = processor, cache, system, max_tokens
        self.reading = Reading() if reading is None else reading
        self.skipped: dict[str, str] = {}
        """Sample id -> why it was skipped."""
        self.silenced = 0
        """Number of clips that got a silent track."""

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Collate one batch.

        Returns:
            Tensors as the thinker takes them, ``labels`` [B, S]; ``frame_seconds``: seconds of a frame of each video;
            and ``skipped``: sample id -> reason, for this call. The last reaches the trainer from worker processes
            too, where the attribute `skipped` is a copy.
        """
        before = dict(self.skipped)
        read_samples = [(sample, media) for sample in samples for media in self._media(sample)]
        if any(media and media.has_video and media.has_audio for _, media in read_samples):
            read_samples = [(sample, self._with_track(media)) for sample, media in read_samples]
        rows, frame_seconds = list[dict[str, Any]](), list[float]()
        for sample, media in read_samples:
            row = self._row(sample, media)
            rows += row
            if row and media is not None and media.has_video:
                frame_seconds.append(media.seconds_per_grid)
        batch = join_rows(rows or [self._placeholder_row()], int(self.processor.tokenizer.pad_token_id or 0))
        batch["frame_seconds"] = frame_seconds
        return batch | {"skipped": {name: why for name, why in self.skipped.items() if name not in before}}

    def _media(self, sample: Sample) -> list[Media | None]:
        """One entry, or none if the clip can't be used."""
        if sample.media is None:
            return [None]
        try:
            media = self.read(sample.media)
        except MediaError as error:
            return self._skip(sample, str(error))
        limit = self.reading.max_seconds
        if limit is not None and (media.seconds > limit):
            return self._skip(sample, f"longer than {limit:g} s")
        if sample.sound_only and media.has_video:
            if not hears(self.processor):
                return self._skip(sample, "named as audio, which this model does not take")
            if not media.has_audio:
                return self._skip(sample, "named as audio, but has no audio track")
            media = replace(media, images=None)
        return [media]

    def read(self, path: Path) -> Media:
        """The clip at ``path``, from the cache where possible. Raises `MediaError` if it can't be read."""
        options = self.reading.reading
        limits = {name: options.pop(name) for name in WORK_LIMITS}  # not in the names of cached clips
        if options["sampling"] == ReadOptions.sampling:
            del options["sampling"]  # the names of cached clips do not hold the default
        if self.reading.max_seconds is not None:
            options["max_seconds"] = self.reading.max_seconds + 1  # slightly more, to detect that the clip is longer
        key = f"{options} {pixel_limits(self.processor)}{'' if hears(self.processor) else ' without audio'}"
        cached = None if self.cache is None else self.cache.get(path, key)
        if cached is not None:
            return cached
        media = read_for(self.processor, path, **options, **limits)
        if self.cache is not None:
            self.cache.put(media, path, key)
        return media

    def _row(self, sample: Sample, media: Media | None) -> list[dict[str, Any]]:
        try:
            row = encode_sample(self.processor, sample, media, self.system)
        except (UsageError, CheckpointError) as error:  # a chat template may refuse a conversation
            return self._skip(sample, str(error))
        tokens = row["input_ids"].shape[1]
        if self.max_tokens is not None and tokens > self.max_tokens:
            return self._skip(sample, f"{tokens} tokens, more than {self.max_tokens}")
        return [row]

    def _skip(self, sample: Sample, why: str) -> list[Any]:
        if sample.id not in self.skipped:
            logger.warning("skipped: %s (%s)", sample.id, why)
        self.skipped[sample.id] = why
        return []

    def _with_track(self, media: Media | None) -> Media | None:
        if media is None or not media.has_video or media.has_audio:
            return media
        self.silenced += 1
        return replace(media, waveform=np.zeros(round(media.video_seconds * SAMPLE_RATE), dtype=np.float32))

    def _placeholder_row(self) -> dict[str, Any]:
        row = encode_sample(self.processor, Sample("stand-in", None, (Turn("user", "-"), Turn("assistant", "-"))), None)
        row["labels"] = torch.full_like(row["labels"], IGNORE_INDEX)
        return row
