"""The clips of long streams, encoded and compressed once: what a stream's cache is made of, unit by unit.

A unit is what a session compresses at once: the two seconds between two turns of video and audio in the prompt.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from omnisift.chunks import build_stream
from omnisift.compressors import Compressor
from omnisift.compressors.resift import ReSiftCompressor
from omnisift.lab.training.clips import ClipBatch
from omnisift.lab.training.feature_cache import encode_clips
from omnisift.lab.training.nano_model import language_model_of
from omnisift.lab.training.packed import PromptLayout, clip_layout
from omnisift.lab.training.stream_scenes import CLIP_SECONDS, FILLERS, filler_scene, split_scene
from omnisift.tokens import Modality
from omnisift.world import Scene, make_scene, render_audio, render_images, world_setting

logger = logging.getLogger(__name__)
UNIT_SECONDS = 2
IDS = 25
"""Temporal ids of a second."""
UNIT_IDS = UNIT_SECONDS * IDS
BUDGETS: Mapping[str, tuple[float, bool] | None] = {
    "all": None,
    "25%": (0.25, True),
    "10%": (0.10, True),
    "25%, unmerged": (0.25, False),
    "10%, unmerged": (0.10, False),
}
"""Name -> share of the tokens that ``resift:causal=true`` keeps, and whether it merges; None keeps all."""
TRAINED = ("all", "25%", "10%")
"""Budgets of training."""
_AT_ONCE = 20
"""Clips that are encoded together."""


@dataclass(frozen=True)
class Unit:
    """The ``k`` kept tokens of two seconds, in the order of the prompt."""

    embeds: Tensor
    """[k, D] float32."""
    offset: Tensor
    """[k] int64: temporal ids since the unit's begin, 0..49."""
    place: Tensor
    """[2, k] int64: row and column of a video token in its frame; 0 for audio."""
    segment: Tensor
    """[k] int64: 0 for the first frame, 1 for the second, 2 for audio."""
    score: Tensor
    """[k] float32: the method's score; 0 without a method."""
    rank: Tensor
    """[k] int64: 0 for the highest score of its segment."""
    full: Tensor
    """[3] int64: tokens of each segment before compression."""

    @property
    def sound(self) -> Tensor:
        """[k] bool: whether a token is audio."""
        return self.segment == 2

    def within(self, share: float) -> Tensor:
        """[k] bool: what stays at a lower share of all tokens: the highest scores of each segment."""
        most = torch.ceil(self.full * share - 1e-6).long()
        return self.rank < most[self.segment]


@dataclass(frozen=True)
class Frame:
    """The prompt around a stream."""

    layout: PromptLayout
    """Of a stream of two clips."""
    first: int
    """Tokens before the stream."""
    origin: int
    """Temporal id at which the stream begins."""
    closing: Tensor
    """[e] int64: token ids between the stream and the question."""
    closing_at: Tensor
    """[e] int64: their ids, counted from the end of the stream."""
    question_at: int
    """Id of the first token of the question, counted likewise."""

    @classmethod
    def of(cls, model: Any, tokenizer: PreTrainedTokenizerFast, side: int) -> Frame:
        """The frame of a model whose frames have ``side`` x ``side`` tokens."""
        layout = clip_layout(model, tokenizer, 2 * CLIP_SECONDS, True, side)
        first, last = int(layout.video[0]), int(torch.cat([layout.video, layout.audio]).max())
        origin = int(layout.position[0, first])
        end = origin + 2 * CLIP_SECONDS * IDS
        return cls(
            layout,
            first,
            origin,
            layout.ids[last + 1 :],
            layout.position[0, last + 1 :] - end,
            layout.after - end,
        )


@torch.no_grad()
def encode_scenes(model: Any, scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    """(video [N, V, D], audio [N, A, D]) float16: what the encoders return for clips of one setting."""
    video, audio = [], []
    for start in range(0, len(scenes), _AT_ONCE):
        part = scenes[start : start + _AT_ONCE]
        images = np.stack([render_images(scene) for scene in part])
        waves = torch.from_numpy(np.stack([render_audio(scene) for scene in part]))
        nothing = torch.zeros(len(part), 0, dtype=torch.int64)
        v, a = encode_clips(model, ClipBatch(list(part), [], images, waves, nothing, nothing))
        video.append(v.half())
        audio.append(a.half())
        if start // _AT_ONCE % 10 == 9:
            logger.info("encoded %d of %d clips", start + len(part), len(scenes))
    return torch.cat(video), torch.cat(audio)


@torch.no_grad()
def compress_clips(
    model: Any,
    frame: Frame,
    before: tuple[Tensor, Tensor],
    clips: tuple[Tensor, Tensor],
    compressor: Compressor | None,
) -> list[list[Unit]]:
    """Compress clips as they follow upon other clips in a stream.

    Args:
        model: a thinker.
        frame: the prompt around the stream.
        before: (video, audio) of the clips before, as `encode_scenes` returns them.
        clips: (video, audio) of as many clips.
        compressor: a method that decides from the past; None keeps every token.

    Returns:
        The units of each clip.
    """
    result: list[list[Unit]] = []
    for start in range(0, len(clips[0]), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        video = torch.cat([before[0][part], clips[0][part]], dim=1).float()
        audio = torch.cat([before[1][part], clips[1][part]], dim=1).float()
        result += _compress(model, frame, video, audio, compressor)
    return result


def _compress(
    model: Any, frame: Frame, video: Tensor, audio: Tensor, compressor: Compressor | None
) -> list[list[Unit]]:
    layout, rows = frame.layout, len(video)
    embeds = language_model_of(model).embed_tokens(layout.ids)[None].repeat(rows, 1, 1)
    embeds = embeds.index_copy(1, layout.video, video).index_copy(1, layout.audio, audio)
    length = embeds.shape[1]
    modality = torch.zeros(length, dtype=torch.int8)
    modality[layout.video], modality[layout.audio] = int(Modality.VIDEO), int(Modality.AUDIO)
    keep = torch.ones(rows, length, dtype=torch.bool)
    score, final = torch.zeros(rows, length), embeds
    if compressor is not None:
        stream = build_stream(
            embeds.flatten(0, 1),
            modality.repeat(rows),
            layout.position.repeat(1, rows),
            torch.arange(rows).repeat_interleave(length),
            1 / IDS,
        )
        selection = compressor(stream)
        keep = selection.keep.view(rows, length)
        if selection.scores is not None:
            score = torch.nan_to_num(selection.scores.float()).view(rows, length)
        if selection.embeds is not None:
            final = embeds.clone()
            final.view(-1, embeds.shape[-1])[selection.keep] = selection.embeds
    return [_units(frame, modality, final[row], keep[row], score[row]) for row in range(rows)]


def _units(frame: Frame, modality: Tensor, embeds: Tensor, keep: Tensor, score: Tensor) -> list[Unit]:
    """The units of the second of two clips."""
    position = frame.layout.position
    since = position[0] - frame.origin
    media = modality > 0
    result = []
    for number in range(CLIP_SECONDS // UNIT_SECONDS, 2 * CLIP_SECONDS // UNIT_SECONDS):
        inside = media & (since // UNIT_IDS == number)
        offset, sound = since - number * UNIT_IDS, modality == Modality.AUDIO
        segment = torch.where(sound, 2, (offset >= IDS).long())
        full = torch.bincount(segment[inside], minlength=3)
        here = torch.nonzero(inside & keep).flatten()
        place = torch.where(sound, 0, position[1:] - frame.origin)[:, here]
        rank = ranks(score[here], segment[here])
        result.append(Unit(embeds[here].clone(), offset[here], place, segment[here], score[here], rank, full))
    return result


def ranks(score: Tensor, segment: Tensor) -> Tensor:
    """[k] int64: how many tokens of the same segment have a higher score (ties: come earlier)."""
    rank = torch.zeros(len(segment), dtype=torch.int64)
    for part in torch.unique(segment):
        here = torch.nonzero(segment == part).flatten()
        rank[here[score[here].argsort(descending=True, stable=True)]] = torch.arange(len(here))
    return rank


@dataclass(frozen=True)
class Event:
    """A scene whose events are shown in one clip or spread over several."""

    parts: list[Scene]
    """The clips, in order of time."""
    units: Mapping[str, list[list[Unit]]]
    """Budget -> units of each clip."""


@dataclass(frozen=True)
class StreamBank:
    """Encoded and compressed clips of one split, from which streams are put together."""

    frame: Frame
    events: list[Event]
    fillers: Mapping[str, list[Scene]]
    """Kind -> clips."""
    filler_units: Mapping[str, Mapping[str, list[list[Unit]]]]
    """Kind -> budget -> units of each clip."""

    @classmethod
    def build(
        cls,
        model: Any,
        tokenizer: PreTrainedTokenizerFast,
        split: str,
        setting: str,
        parts: Sequence[int],
        fillers: int,
        budgets: Sequence[str] = TRAINED,
    ) -> StreamBank:
        """Render, encode and compress clips.

        Args:
            model: a thinker.
            tokenizer: its tokenizer.
            split: split of the world.
            setting: setting of the events, ``base`` or ``wide``.
            parts: for each scene from the first, over how many clips its events are spread; fewer if it has fewer
                shapes.
            fillers: clips of each kind of filler.
            budgets: which of `BUDGETS`.
        """
        config = world_setting(setting).config
        rng = np.random.default_rng((len(parts), 7))
        scenes = [make_scene(seed, split, config) for seed in range(len(parts))]
        events = [split_scene(s, min(n, len(s.shapes)), rng) for s, n in zip(scenes, parts, strict=True)]
        kinds = {kind: [filler_scene(kind, i, split, setting) for i in range(fillers)] for kind in FILLERS}
        clips = [*(part for event in events for part in event), *(clip for kind in kinds.values() for clip in kind)]
        video, audio = encode_scenes(model, clips)
        frame = Frame.of(model, tokenizer, config.size // 28)
        # Each clip is compressed as it follows upon a clip without events.
        first = len(clips) - fillers * len(FILLERS)
        before = torch.from_numpy(rng.integers(first, len(clips), size=len(clips)))
        units: dict[str, list[list[Unit]]] = {}
        for name in budgets:
            options = BUDGETS[name]
            method = options and ReSiftCompressor(options[0], merge=options[1], causal=True).eval()
            units[name] = compress_clips(model, frame, (video[before], audio[before]), (video, audio), method)
        at = np.cumsum([0, *(len(event) for event in events)])
        found = [
            Event(event, {name: u[at[i] : at[i + 1]] for name, u in units.items()}) for i, event in enumerate(events)
        ]
        filler_units = {
            kind: {name: u[first + n * fillers : first + (n + 1) * fillers] for name, u in units.items()}
            for n, kind in enumerate(FILLERS)
        }
        return cls(frame, found, kinds, filler_units)
