"""Where the tokens of a stream are in its prompt: what the processor and the host say about clips of a few units.

A unit is the shortest part of a clip after which frames, chunks, the spans of the audio encoder and the host's order of
tokens all begin again. Nothing here is written for one family: prompts of one, two and three units are built from sizes
alone, by the processor and by the host's own positions, and must continue each other. Where the processor writes the
time of each frame in words, the words and marks around the frames of a unit are a part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from omnisift.chunks import MICROSECONDS
from omnisift.errors import UnsupportedModel, UsageError
from omnisift.media import SAMPLE_RATE, Media
from omnisift.media.pieces import MAX_TIME
from omnisift.models import adapter_for
from omnisift.models.grid_adapter import GridAdapter
from omnisift.pipeline.clip_format import ClipFormat, hears
from omnisift.pipeline.clip_outline import CHUNK_STEPS, ClipOutline
from omnisift.pipeline.loading import Host
from omnisift.pipeline.prompt import around_clip, clip_size, prompt_text, run_processor
from omnisift.streaming.dialogue import dialogue_text
from omnisift.streaming.short_clip import Virtual
from omnisift.tokens import Modality, TokenStream

MAX_UNIT_SECONDS = 16
"""Longest unit; a frame rate that needs a longer one is refused."""
_QUESTION = "x"


@dataclass(frozen=True)
class UnitTokens:
    """The M tokens of one unit, or of the part of it that is there, before compression."""

    stream: TokenStream
    """The N video and audio tokens among them, without embeddings, in the order of the prompt; chunks and positions are
    counted from the unit's beginning, ``time`` is of no meaning."""
    ids: Tensor
    """[M] int64."""
    modality: Tensor
    """[M] int8, values of `Modality`: text are the times and marks that the processor wrote between frames."""
    position_ids: Tensor
    """[3, M] int64: rotary positions as if the unit were the first of the stream."""
    length: int
    """Rotary positions along time from its beginning to that of the next unit."""
    mel_frames: int
    """Frames of its spectrogram."""


@dataclass(frozen=True)
class ClipSize:
    """What a processor reads of a clip when it counts tokens."""

    numbers: list[int]
    """Of its images; a processor that writes times has them from these."""
    samples: int


class StreamLayout:
    """The prompt of a stream of one image size, rate and model.

    Args:
        host: the model.
        fps: images per second.
        size: height and width of the images.
        has_audio: whether the stream has sound.
        system: a system prompt; None sends none.

    Raises:
        UnsupportedModel: a longer clip of this model is not its parts, one behind the other.
        UsageError: no unit of at most `MAX_UNIT_SECONDS` exists at this rate.
    """

    def __init__(
        self, host: Host, fps: float, size: tuple[int, int], *, has_audio: bool, system: str | None = None
    ) -> None:
        adapter = adapter_for(host.thinker)
        assert isinstance(adapter, GridAdapter)
        self._host, self._adapter, self._system = host, adapter, system
        self.fps, self.size, self.has_audio = fps, size, has_audio
        clip_format = ClipFormat.of(host.processor)
        self._temporal, self._has_times = clip_format.images, clip_format.has_times
        self._around = (0, 0)
        """Tokens of text before and behind each frame."""
        if self._has_times:
            self._around = self._virtual(ClipSize([0] * 2 * self._temporal, 0)).words_around()
        self.unit_seconds = self._find_unit()
        """Seconds of a unit."""
        self.unit_images = round(self.unit_seconds * Fraction(fps).limit_denominator(1000))
        """Images of a unit."""
        self.unit_samples = round(self.unit_seconds * SAMPLE_RATE) if has_audio else 0
        """Samples of a unit; 0 without sound."""

    # --- the length of a unit

    def _find_unit(self) -> Fraction:
        """The shortest unit: whole chunks, whole spans of the audio encoder, and positions that repeat."""
        rate = Fraction(self.fps).limit_denominator(1000)
        chunk = CHUNK_STEPS * self._temporal / rate
        reason = "its chunks, the spans of its audio encoder and its positions never begin together"
        for count in range(1, int(MAX_UNIT_SECONDS / chunk) + 1):
            seconds = count * chunk
            if self.has_audio and (seconds * SAMPLE_RATE / self._audio_span).denominator != 1:
                continue
            try:
                self._check_periodic(seconds)
            except UnsupportedModel as error:
                reason = str(error)
                continue
            return seconds
        raise UsageError(
            f"a stream of {self.fps:g} images per second has no unit of at most {MAX_UNIT_SECONDS} s with this model: "
            f"{reason}; use another fps, such as 2"
        )

    @property
    def _audio_span(self) -> int:
        """Samples of a span of the audio encoder."""
        window = self._adapter.audio_window
        return (window or 1) * int(self._host.processor.feature_extractor.hop_length)

    def _check_periodic(self, seconds: Fraction) -> None:
        """Raise `UnsupportedModel` unless clips of one, two and three units continue each other."""
        parts = [self._virtual(self._whole(count, seconds)) for count in (1, 2, 3)]
        one = parts[0].tokens
        if any(part.tokens != count * one for count, part in enumerate(parts, start=1)):
            raise UnsupportedModel("the tokens of a longer clip are not those of its parts")
        first, second, third = (parts[2].clip(number * one, (number + 1) * one) for number in range(3))
        for begin, end in (first, second), (second, third):
            if not torch.equal(begin.ids, end.ids):
                raise UnsupportedModel("the order of its tokens does not repeat")
        step = second.position_ids - first.position_ids
        if not torch.equal(step, third.position_ids - second.position_ids) or step.amin() < 0:
            raise UnsupportedModel("its positions do not repeat")
        if len({0, *step.flatten().tolist()}) > 2:
            raise UnsupportedModel("its positions do not advance by one number")
        if not torch.equal(parts[0].clip(0, one).position_ids, first.position_ids):
            raise UnsupportedModel("positions at the beginning depend on what follows")

    def _whole(self, count: int, seconds: Fraction) -> ClipSize:
        rate = Fraction(self.fps).limit_denominator(1000)
        numbers = count * list(range(round(seconds * rate)))
        return ClipSize(numbers, round(count * seconds * SAMPLE_RATE) if self.has_audio else 0)

    # --- tokens and positions

    @cached_property
    def _first(self) -> Virtual:
        return self._virtual(self._whole(1, self.unit_seconds))

    @property
    def media(self) -> Media:
        """A clip of one unit, of which there are sizes alone."""
        return self._first.media

    @property
    def hears(self) -> bool:
        """Whether the model takes audio, which the stream need not have."""
        return hears(self._host.processor)

    @cached_property
    def unit(self) -> UnitTokens:
        """The tokens of a whole unit, the first one."""
        return self.part(self.unit_images, self.unit_samples)

    def whole(self, number: int) -> UnitTokens:
        """The tokens of a whole unit. Its times in words depend on its number."""
        return self.part(self.unit_images, self.unit_samples, number) if self._has_times else self.unit

    @cached_property
    def step(self) -> dict[Modality, Tensor]:
        """Modality -> [3] int64: what a unit adds to the rotary positions of its tokens."""
        size = self._first.tokens
        two = self._virtual(self._whole(2, self.unit_seconds))
        move = two.clip(size, 2 * size).position_ids - two.clip(0, size).position_ids
        modality = self._first.clip(0, size).modality
        return {kind: move[:, modality == kind][:, 0] for kind in Modality if bool((modality == kind).any())}

    @property
    def words_before(self) -> int:
        """Tokens of text before each frame that belong to it."""
        return self._around[0]

    @property
    def times_are_positions(self) -> bool:
        """As `Adapter.times_are_positions`."""
        return self._adapter.times_are_positions

    def moving(self, modality: Tensor) -> Tensor:
        """[3, K] int64: 1 where the positions of tokens advance with time, 0 where they stay."""
        moving = (modality == Modality.SUBTITLE).long().expand(3, -1).clone()
        for kind, step in self.step.items():
            moving[:, modality == kind] = (step > 0).long()[:, None]
        return moving

    @cached_property
    def unit_ids(self) -> int:
        """Rotary positions that a unit takes along time; those of the longest where its times in words differ."""
        return self.whole(int(MAX_TIME / self.unit_seconds)).length

    @property
    def gap_ids(self) -> int:
        """Rotary positions that a unit without tokens takes: none where positions are places in the text."""
        return 0 if self._has_times else self.unit_ids

    def part(self, images: int, samples: int, number: int = 0) -> UnitTokens:
        """The tokens of the beginning of a unit.

        Args:
            images: of the unit that are there, at least one.
            samples: of the unit that are there.
            number: of the unit, on which its times in words depend.
        """
        # Behind a whole unit, so that a part without a single audio token is a part of a clip with audio.
        whole = self._whole(1, self.unit_seconds)
        first = number * self.unit_images
        numbers = [*whole.numbers, *range(first, first + images)]
        virtual = self._virtual(ClipSize(numbers, whole.samples + samples))
        clip = ClipOutline(self._adapter, virtual.inputs, self._temporal / self.fps)
        chunks = self.unit_images // (CHUNK_STEPS * self._temporal)
        stream = clip.part(chunks, clip.chunks)
        # Its tokens, and the text between them.
        begin = virtual.begin + self._first.tokens
        words = begin + torch.nonzero(virtual.modality[begin : virtual.end] == Modality.TEXT)[:, 0]
        places = torch.cat([stream.sample, words]).sort().values
        modality, position_ids = virtual.modality[places], virtual.position_ids[:, places]
        for kind, step in self.step.items():
            position_ids -= step[:, None] * (modality == kind)
        length = int(max(move.max() for move in self.step.values()))
        if self._has_times:
            length = int(virtual.position_ids[0, virtual.end] - virtual.position_ids[0, begin])
        position = stream.position.clone()
        position[0] -= self.unit_microseconds
        stream = replace(stream, position=position, chunk=stream.chunk - chunks, sample=torch.zeros_like(stream.sample))
        frames = (clip_size(media, self._host.processor)[1] for media in (virtual.media, self._first.media))
        mel_frames = next(frames) - next(frames)
        return UnitTokens(stream, virtual.ids[places], modality, position_ids, length, mel_frames)

    @property
    def unit_microseconds(self) -> int:
        """What a unit adds to the times of its tokens."""
        return round(self.unit_seconds * MICROSECONDS)

    @cached_property
    def before(self) -> tuple[Tensor, Tensor]:
        """Ids [N] of the prompt before the stream, and their rotary positions [3, N]."""
        head = slice(0, self._first.begin)
        return self._first.ids[head], self._first.position_ids[:, head]

    @property
    def origin(self) -> int:
        """The rotary position at which the stream begins."""
        return int(self.unit.position_ids[0].min())

    def after(self, turns: Sequence[tuple[str, str]], question: str, last: int, free: int) -> tuple[Tensor, Tensor]:
        """The prompt behind the stream.

        Args:
            turns: questions and answers before.
            question: the question.
            last: `last_position` of the unit that was read last, before compression.
            free: the first rotary position behind lines.

        Returns:
            Ids [N] and their rotary positions [N].
        """
        processor, virtual = self._host.processor, self._first
        text = dialogue_text(processor, virtual.media, turns, question, self._system)
        tail = processor.tokenizer(
            around_clip(processor, virtual.media, text)[1], add_special_tokens=False, return_tensors="pt"
        )["input_ids"][0]
        # Marks that the processor wrote behind the clip, and the first token of the text, have positions of their own.
        fixed = virtual.position_ids[0, virtual.end : virtual.text + 1]
        if self._text_advances:
            fixed = fixed - virtual.last + last
        fixed = fixed + max(0, free - int(fixed[0]))
        rest = fixed[-1] + torch.arange(1, len(tail))
        return torch.cat([virtual.ids[virtual.end : virtual.text], tail]), torch.cat([fixed, rest])

    @cached_property
    def _text_advances(self) -> bool:
        """Whether text begins behind the last position of a clip, however long; else at one place.

        Raises:
            UnsupportedModel: it does neither.
        """
        first = self._first
        side = int((first.position_ids[1:, first.begin : first.end] - self.origin).max()) + 1
        long = self._virtual(self._whole(2 + -(-side // self.unit_ids), self.unit_seconds))
        starts = [int(part.position_ids[0, part.end]) for part in (first, long)]
        if starts[1] - long.last == starts[0] - first.last:
            return True
        if starts[0] == starts[1]:
            return False
        raise UnsupportedModel("the text behind a clip begins at positions that do not follow from those of the clip")

    def _virtual(self, size: ClipSize) -> Virtual:
        """The prompt of a clip of which there are sizes alone."""
        processor, (height, width) = self._host.processor, self.size
        count = len(size.numbers)
        images = np.broadcast_to(np.zeros(1, np.uint8), (count, height, width, 3))
        wave = np.broadcast_to(np.zeros(1, np.float32), (size.samples,)) if size.samples else None
        seconds = max(count / self.fps, size.samples / SAMPLE_RATE)
        media = Media(
            path=Path("stream"),
            images=images,
            times=np.arange(count) / self.fps,
            indices=np.arange(count),
            fps=self.fps,
            waveform=wave,
            seconds=seconds,
            video_seconds=count / self.fps,
            capped=False,
            bad_packets=0,
            warnings=(),
        )
        text = prompt_text(processor, media, _QUESTION, self._system)
        numbers = size.numbers if self._has_times else None
        inputs = run_processor(processor, text, media, sizes_alone=True, image_numbers=numbers)
        tail = processor.tokenizer(around_clip(processor, media, text)[1], add_special_tokens=False)["input_ids"]
        return Virtual.of(self._adapter, media, inputs, len(tail), self._around if self._has_times else None)
