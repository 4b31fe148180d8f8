"""Adapters for Muse Spark and its relatives: one row of positions, the audio of a video follows it.

A sliding window, and an index that picks keys, see the tokens that were kept, as the cache of their layers does.
"""

from __future__ import annotations

from typing import ClassVar

from omnisift.models.one_row_grids import OneRowGridAdapter


class MuseSparkAdapter(OneRowGridAdapter):
    """Each frame is a run of tokens behind its time."""

    model_types: ClassVar[frozenset[str]] = frozenset({"muse_spark"})
    model_class: ClassVar[str] = "MuseSparkForConditionalGeneration"
    release: ClassVar[str] = "5.23"
    audio_apart: ClassVar[bool] = True
    times_in_words: ClassVar[bool] = True

    @property
    def audio_step(self) -> float:
        """Samples of a token, at 24 kHz: 80 ms in released checkpoints."""
        return int(self.config.audio_config.samples_per_token) * 1e6 / 24_000


class MuseGlimmerAdapter(OneRowGridAdapter):
    """The model without audio."""

    model_types: ClassVar[frozenset[str]] = frozenset({"muse_glimmer"})
    model_class: ClassVar[str] = "MuseGlimmerForConditionalGeneration"
    release: ClassVar[str] = "5.23"
    times_in_words: ClassVar[bool] = True


class Dots3NoteAdapter(OneRowGridAdapter):
    """A video is one run of tokens."""

    model_types: ClassVar[frozenset[str]] = frozenset({"dots3_note"})
    model_class: ClassVar[str] = "Dots3NoteForConditionalGeneration"
    release: ClassVar[str] = "5.23"
    audio_apart: ClassVar[bool] = True

    @property
    def audio_step(self) -> float:
        """Samples of a token: 80 ms in released checkpoints."""
        audio = self.config.audio_config
        return int(audio.samples_per_token) * 1e6 / int(audio.sampling_rate)
