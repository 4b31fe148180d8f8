"""The shape of a prompt from a clip's length and size alone, by the rules of the reader and of the processor."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from omnisift.chunks import ChunkShapes, build_stream
from omnisift.errors import UsageError
from omnisift.media.image import smart_size
from omnisift.media.sampling import by_time, check_numbers
from omnisift.pipeline.clip_info import audio_tokens
from omnisift.tokens import Modality

_POSITIONS = 25
"""Temporal positions, and audio tokens, in a second."""
_PATCH = 28
"""Pixels along a side of a video token."""
_MOST_SECONDS, _MOST_TOKENS = 24 * 3600.0, 10_000_000
"""Beyond these a typing error is likelier than a prompt."""


@dataclass(frozen=True)
class PromptShape:
    """One clip and a question, as the model gets them."""

    frames: int
    """Time steps of the token grid, two images each."""
    height: int
    """Video tokens along a frame's height."""
    width: int
    mel: int
    """Frames of the spectrogram, 100 a second."""
    text: int
    """All other tokens of the prompt."""
    seconds_per_frame: float

    @property
    def video(self) -> int:
        """Video tokens."""
        return self.frames * self.height * self.width

    @property
    def audio(self) -> int:
        """Audio tokens."""
        return audio_tokens(self.mel)

    @property
    def prompt(self) -> int:
        """Tokens of the whole prompt."""
        return self.video + self.audio + self.text

    def chunks(self) -> ChunkShapes:
        """Tokens of every chunk, grouped by the library's own rule."""
        frame = torch.arange(self.frames).repeat_interleave(self.height * self.width)
        start = (frame.double() * self.seconds_per_frame * _POSITIONS).long()
        temporal = torch.cat([start, torch.arange(self.audio)])
        modality = torch.full_like(temporal, int(Modality.AUDIO), dtype=torch.int8)
        modality[: self.video] = int(Modality.VIDEO)
        stream = build_stream(
            embeds=torch.empty(len(temporal), 0),
            modality=modality,
            position=temporal.repeat(3, 1),
            sample=torch.zeros_like(temporal),
            seconds_per_position=1 / _POSITIONS,
        )
        return ChunkShapes.of(stream)


def prompt_shape(
    seconds: float,
    height: int = 1080,
    width: int = 1920,
    *,
    fps: float = 2.0,
    max_frames: int = 256,
    max_pixels: int = 320 * 784,
    min_pixels: int = 128 * 784,
    text: int = 128,
    sound: bool = True,
) -> PromptShape:
    """The prompt of a clip of ``seconds`` with pictures of ``height`` x ``width`` pixels, read as `Pipeline.ask` does.

    Limits of pixels are those of one picture; the defaults are the paper's and the Qwen processor's. ``text`` tokens
    are those of question, template and markers. Raises `UsageError` for numbers that mean nothing.
    """
    if not 0 < seconds <= _MOST_SECONDS:
        raise UsageError(f"a clip is longer than 0 and at most {_MOST_SECONDS:.0f} seconds, got {seconds}")
    if text < 1:
        raise UsageError(f"a prompt has at least one token of text, got {text}")
    check_numbers(fps, max_frames, 0.0, None, seconds)
    plan = by_time(seconds, fps, max_frames)
    high, wide = smart_size(height, width, factor=_PATCH, min_pixels=min(min_pixels, max_pixels), max_pixels=max_pixels)
    shape = PromptShape(
        frames=len(plan.moments) // 2,
        height=high // _PATCH,
        width=wide // _PATCH,
        mel=math.floor(100 * seconds) if sound else 0,
        text=text,
        seconds_per_frame=2 / plan.fps,
    )
    if shape.prompt > _MOST_TOKENS:
        raise UsageError(f"a prompt of {shape.prompt:,} tokens is over {_MOST_TOKENS:,}; lower --max-frames or --fps")
    return shape
