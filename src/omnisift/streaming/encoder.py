"""Encode and compress the units of a stream: each alone, with what the method remembers of those before."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from omnisift.budget import Budget, Counts
from omnisift.chunks import ChunkShapes, segment_of, segment_sizes
from omnisift.compressors import Compressor
from omnisift.models import adapter_for
from omnisift.models.media_encoding import MediaEmbeds, encode_audio, encode_media
from omnisift.pipeline.clip_outline import CHUNK_STEPS
from omnisift.pipeline.clip_windows import joined_media, joined_streams, kept_rows, stream_rows
from omnisift.pipeline.loading import Host
from omnisift.pipeline.preparation import PIXELS, lay_out, normalize_patches, padded_length
from omnisift.pipeline.spectrogram import LogMel, limited
from omnisift.streaming.assembler import Unit
from omnisift.streaming.layout import StreamLayout, UnitTokens
from omnisift.streaming.lines import UnitLines, with_lines
from omnisift.tokens import Modality, TokenStream


@dataclass(frozen=True)
class KeptUnit:
    """What a method keeps of one unit: K tokens."""

    tokens: UnitTokens
    """All M tokens of the unit."""
    keep: Tensor
    """[M] bool on the CPU; all text is kept."""
    media: MediaEmbeds
    """Embeddings of the kept tokens, in their order, and side inputs of the video tokens among them."""
    score: Tensor
    """[K] float32 on the CPU: the method's scores; NaN without any, and for text."""
    rank: Tensor
    """[K] int64 on the CPU: place among the kept tokens of the segment by score, 0 first, and for text."""
    size: Tensor
    """[K] int64 on the CPU: tokens of the segment before compression; 1 for text."""
    merged: bool
    """Whether the method merged other tokens into the kept ones."""

    @property
    def position_ids(self) -> Tensor:
        """[3, K] of the kept tokens; see `UnitTokens`."""
        return self.tokens.position_ids[:, self.keep]

    @property
    def modality(self) -> Tensor:
        """[K] int8 of the kept tokens."""
        return self.tokens.modality[self.keep]


@dataclass
class _Ahead:
    """Time steps of an unfinished unit that a question saw. Forks of an encoder share it."""

    unit: int = -1
    steps: list[MediaEmbeds] = field(default_factory=list)


class UnitEncoder:
    """Turns units into tokens, in their order.

    Args:
        host: the model.
        compressor: a method whose `Compressor.reach` is no clip; None keeps every token.
        layout: of the stream.
        peak: the largest value of the whole stream's spectrogram before its floor, for files; None takes the largest
            value so far.
    """

    def __init__(
        self, host: Host, compressor: Compressor | None, layout: StreamLayout, peak: float | None = None
    ) -> None:
        self._host, self._compressor, self._layout = host, compressor, layout
        self._adapter = adapter_for(host.thinker)
        self.budget = self._budget(0)
        """The budget by modality, which an overall one is for whole units without lines; None without a method."""
        # The method: the tokens that it looks back to, and what it remembers.
        reach = 0 if compressor is None else compressor.reach or 0
        self._context = -(-reach // CHUNK_STEPS)
        self._past: TokenStream | None = None
        self._memory = dict[str, Any]()
        self._next = 0  # number of the next unit
        self.encode_seconds = self.compress_seconds = 0.0
        """Seconds that the latest unit took."""
        # The spectrogram: frames of the current unit and after, before their floor.
        self._exact = peak
        self._peak = float("-inf") if peak is None else peak
        self._mel: LogMel | None = None
        self._frames = torch.zeros(0, 0)
        self._fed = 0
        """Samples after the current unit that the spectrogram has seen."""
        self._ahead = _Ahead()

    def _budget(self, n_text: int) -> Budget | None:
        """The budget by modality for a whole unit with so many tokens of lines; None without a method."""
        if self._compressor is None:
            return None
        given, sizes = self._compressor.budget, self.sizes
        video, audio = given.rates(*sizes, n_text)
        text = given.text_rate(sum(sizes), n_text) if n_text else given.retain_text
        return replace(given, retain=None, retain_video=video, retain_audio=audio, retain_text=text)

    @property
    def sizes(self) -> tuple[int, int]:
        """Video and audio tokens of a whole unit."""
        modality = self._layout.unit.stream.modality
        return int((modality == Modality.VIDEO).sum()), int((modality == Modality.AUDIO).sum())

    def fork(self) -> UnitEncoder:
        """An encoder in the same state; what it encodes is not remembered by this one."""
        made = copy.copy(self)
        made._memory, made._mel = copy.deepcopy(self._memory), copy.copy(self._mel)
        return made

    def encode(self, unit: Unit, lines: UnitLines | None = None) -> KeptUnit:
        """Encode and compress the next unit, which is no gap; the last one may be unfinished.

        Args:
            unit: its images and samples.
            lines: its lines of text; None without any.
        """
        begin = time.perf_counter()
        is_whole = len(unit.images) == self._layout.unit_images
        is_whole &= unit.following is not None or not self._layout.has_audio
        if self._layout.has_audio and (self._mel is None or unit.number != self._next):
            # At the beginning, and after a gap, which is silence.
            extractor = self._host.processor.feature_extractor
            self._mel, self._frames, self._fed = LogMel(extractor, after_silence=unit.number > 0), torch.zeros(0, 0), 0
        if is_whole:
            tokens = self._layout.whole(unit.number)
        else:
            tokens = self._layout.part(len(unit.images), self._samples(unit), unit.number)
        mel = self._spectrogram(unit, tokens, is_whole) if self._layout.has_audio else None
        embeds, marked = self._encoded(
            tokens.stream.modality, self._video(unit, is_whole), mel, is_first=unit.number == 0
        )
        self._next = unit.number + 1
        if lines is not None:
            tokens = with_lines(tokens, lines, self._layout)
            embeds = self._with_words(embeds, tokens.stream.modality == Modality.SUBTITLE, lines.ids)
        middle = self._now()
        kept = self._compressed(tokens, unit.number, embeds, marked)
        self.encode_seconds, self.compress_seconds = middle - begin, self._now() - middle
        return kept

    def _now(self) -> float:
        """The clock, after the device is done."""
        if self._host.device.type == "cuda":
            torch.cuda.synchronize(self._host.device)
        return time.perf_counter()

    def _samples(self, unit: Unit) -> int:
        """Samples of an unfinished unit, of which the spectrogram has frames."""
        if unit.samples is None or self._mel is None:
            return 0
        count, processor = len(unit.samples), self._host.processor
        total = self._mel.samples - self._fed + count
        # The last incomplete hop counts only where the waveform is padded, which long ones are not.
        is_padded = padded_length(processor, total) > total
        return count if is_padded else count - count % int(processor.feature_extractor.hop_length)

    # --- encoders

    def _spectrogram(self, unit: Unit, tokens: UnitTokens, is_whole: bool) -> Tensor:
        """[M, F]: what the audio encoder reads of the unit."""
        assert unit.samples is not None
        assert self._mel is not None
        # The samples that it has not seen yet; those after the unit complete the last frames.
        parts = [unit.samples[self._fed :]]
        parts += [unit.following] if unit.following is not None else []
        new = self._mel.add(np.concatenate(parts))
        frames = torch.cat([self._frames, new], dim=1) if self._frames.numel() else new
        if not is_whole:
            frames = torch.cat(
                [frames, self._mel.finish(padded_length(self._host.processor, self._mel.samples))], dim=1
            )
        used, self._frames = frames[:, : tokens.mel_frames], frames[:, tokens.mel_frames :]
        self._fed = 0 if unit.following is None else len(unit.following)
        if self._exact is None and used.numel():
            self._peak = max(self._peak, float(used.max()))
        return limited(used, self._peak)

    def _video(self, unit: Unit, is_whole: bool) -> MediaEmbeds:
        """The video tokens of a unit. A question does not encode again what one before it saw.

        A whole unit is encoded at once, so that it is the same to the bit with questions and without.
        """
        video, ahead = self._host.processor.video_processor, self._ahead
        if is_whole or ahead.unit != unit.number:
            ahead.unit, ahead.steps = unit.number, []
        size = video.temporal_patch_size
        known, images = list(ahead.steps), unit.images[len(ahead.steps) * size :]
        if not images:
            return joined_media(known)
        patches, grid = lay_out(np.stack(images), video.patch_size, video.merge_size, size)
        inputs = self._moved({PIXELS: patches, "video_grid_thw": torch.tensor([grid])})
        area = grid[1] * grid[2] // video.merge_size**2
        made = joined_media([*known, encode_media(self._adapter, Modality.VIDEO, grid[0] * area, inputs)])
        # Another question may need the steps of which no later piece changes an image.
        steps = range(len(known), 0 if is_whole else unit.decided // size)
        ahead.steps += [made.rows(torch.arange(step * area, (step + 1) * area)) for step in steps]
        return made

    def _encoded(
        self, modality: Tensor, media: MediaEmbeds, mel: Tensor | None, *, is_first: bool
    ) -> tuple[Tensor, dict[str, list[Tensor]]]:
        """[N, D]: embeddings of the unit's tokens, and the side inputs of its video tokens."""
        is_video = modality == Modality.VIDEO
        if mel is None or bool(is_video.all()):
            return media.embeds, media.marked
        heard = encode_audio(self._adapter, mel, self._moved, is_first=is_first)
        embeds = media.embeds.new_empty(len(modality), media.embeds.shape[1])
        at = is_video.to(embeds.device)
        embeds[at], embeds[~at] = media.embeds, heard.embeds
        return embeds, media.marked

    def _moved(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """Inputs on the device; bytes become floats there."""
        host = self._host
        moved = {name: value.to(host.device) for name, value in inputs.items()}
        return {
            name: value.to(host.dtype) if value.is_floating_point() else value
            for name, value in normalize_patches(host.processor, moved, host.dtype).items()
        }

    # --- the method

    def _compressed(self, tokens: UnitTokens, number: int, embeds: Tensor, marked: dict[str, list[Tensor]]) -> KeptUnit:
        layout, method = self._layout, self._compressor
        position = tokens.stream.position.clone()
        position[0] += number * layout.unit_microseconds
        stream = replace(tokens.stream, embeds=embeds, position=position, time=(position[0].double() / 1e6).float())
        segment, size = _segments(stream)
        budget = self._budget(int((stream.modality == Modality.SUBTITLE).sum()))
        if method is None or budget is None:
            keep, scores, replaced = torch.ones(len(stream), dtype=torch.bool), None, None
        else:
            keep, scores, replaced = self._choose(method, budget, stream)
        score = torch.full((len(stream),), torch.nan) if scores is None else scores
        media = kept_rows(MediaEmbeds(embeds, marked), stream.modality, keep, replaced)
        rank = _ranks(score[keep], segment[keep])
        kept = KeptUnit(tokens, keep, media, score[keep], rank, size[keep], replaced is not None)
        return kept if len(tokens.ids) == len(stream) else self._with_text(kept)

    def _with_text(self, kept: KeptUnit) -> KeptUnit:
        """Add the text between the frames to the kept video and audio tokens."""
        tokens, embeds = kept.tokens, kept.media.embeds
        is_text = tokens.modality == Modality.TEXT
        keep = is_text.clone()
        keep[~is_text] = kept.keep
        at = ~is_text[keep]
        joined = self._with_words(embeds, ~at, tokens.ids[is_text])
        score, rank, size = torch.full((len(at),), torch.nan), torch.zeros_like(at).long(), torch.ones_like(at).long()
        score[at], rank[at], size[at] = kept.score, kept.rank, kept.size
        return replace(kept, keep=keep, media=replace(kept.media, embeds=joined), score=score, rank=rank, size=size)

    def _with_words(self, embeds: Tensor, is_text: Tensor, ids: Tensor) -> Tensor:
        """[N, D]: the embeddings of words where ``is_text`` [N], and ``embeds`` elsewhere, each in their order."""
        table = cast("nn.Module", cast("Any", self._adapter.parts.language_model).get_input_embeddings())
        joined, at = embeds.new_empty(len(is_text), embeds.shape[1]), is_text.to(embeds.device)
        joined[at], joined[~at] = table(ids.to(embeds.device)).to(embeds.dtype), embeds
        return joined

    def _choose(
        self, method: Compressor, budget: Budget, stream: TokenStream
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """``keep`` and ``scores`` of the unit's tokens on the CPU, and merged embeddings of those kept."""
        past = stream_rows(stream, torch.zeros(0, dtype=torch.int64)) if self._past is None else self._past
        first = 0 if not len(past) else int(past.chunk.max()) + 1
        own = replace(stream, chunk=stream.chunk + first)
        together = joined_streams(past, own)
        counts, shapes = budget.counts(ChunkShapes.of(stream)), ChunkShapes.of(together)
        all_counts = torch.cat([segment_sizes(together)[:first], counts.by_segment().view(-1, 3)])
        text = torch.cat([shapes.text[:first], counts.text])
        selection = method.next_part(
            together, Counts(all_counts[:, 0], all_counts[:, 1], all_counts[:, 2], text), self._memory
        )
        # What the next unit looks back to.
        chunks = first + int(stream.chunk.max()) + 1
        begin = max(0, chunks - self._context)
        later = stream_rows(together, torch.nonzero(together.chunk >= begin)[:, 0])
        self._past = replace(later, chunk=later.chunk - begin)
        scores = None if selection.scores is None else selection.scores.detach().float().cpu()[len(past) :]
        return selection.keep.cpu()[len(past) :], scores, selection.embeds


def _segments(stream: TokenStream) -> tuple[Tensor, Tensor]:
    """Number and size of the segment of each token, [N] int64 each; the subtitles of a chunk are one more."""
    segment = segment_of(stream)
    chunks = int(stream.chunk.max()) + 1
    segment = torch.where(segment < 0, 3 * chunks + stream.chunk, segment)
    return segment, torch.bincount(segment)[segment]


def _ranks(score: Tensor, segment: Tensor) -> Tensor:
    """[K] int64: place of each token in its segment, by score; in order where scores are NaN."""
    rank = torch.zeros(len(score), dtype=torch.int64)
    for number in sorted(set(segment.tolist())):
        index = torch.nonzero(segment == number)[:, 0]
        order = score[index].nan_to_num(nan=float("-inf")).argsort(descending=True, stable=True)
        rank[index[order]] = torch.arange(len(index))
    return rank
