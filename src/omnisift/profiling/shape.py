"""Size of a prompt from the length and size of a clip, by the rules of the reader and the processor."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from omnisift.chunks import ChunkShapes, build_stream
from omnisift.errors import UsageError
from omnisift.media.image import smart_size
from omnisift.media.sampling import by_time, check_numbers
from omnisift.models.qwen2_5_omni import audio_tokens
from omnisift.tokens import Modality

_POSITIONS = 25
"""Temporal positions, and audio tokens, per second."""
_PATCH = 28
"""Pixels along a side of a video token."""
_MAX_SECONDS, _MAX_TOKENS = 24 * 3600.0, 10_000_000
"""Limits that catch typing errors."""


@dataclass(frozen=True)
class PromptShape:
    """Size of one clip and a question in tokens."""

    frames: int
    """Time steps of the token grid; each covers two images."""
    height: int
    """Video tokens along a frame's height."""
    width: int
    mel: int
    """Frames of the spectrogram, 100 per second."""
    text: int
    """Tokens of the question, the chat template and the markers."""
    seconds_per_frame: float

    @property
    def video(self) -> int:
        """Number of video tokens."""
        return self.frames * self.height * self.width

    @property
    def audio(self) -> int:
        """Number of audio tokens."""
        return audio_tokens(self.mel)

    @property
    def prompt(self) -> int:
        """Number of tokens of the prompt."""
        return self.video + self.audio + self.text

    def chunks(self) -> ChunkShapes:
        """Return the tokens of every chunk, grouped by the rule of the library."""
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
    audio: bool = True,
) -> PromptShape:
    """Return the size of the prompt of a clip, sampled and scaled as in `Pipeline.ask`.

    Args:
        seconds: Length of the clip.
        height: Height of its frames in pixels.
        width: Width of its frames in pixels.
        fps: Images per second to sample.
        max_frames: Maximum number of images.
        max_pixels: Maximum pixels per image; the default is the paper's.
        min_pixels: Minimum pixels per image; the default is that of the Qwen processor.
        text: Tokens of the question, the chat template and the markers.
        audio: Whether the clip has audio.

    Raises:
        UsageError: A number is out of range.
    """
    if not 0 < seconds <= _MAX_SECONDS:
        raise UsageError(f"seconds must be above 0 and at most {_MAX_SECONDS:.0f}, got {seconds}")
    if text < 1:
        raise UsageError(f"text must be at least 1 token, got {text}")
    check_numbers(fps, max_frames, 0.0, None, seconds)
    plan = by_time(seconds, fps, max_frames)
    high, wide = smart_size(height, width, factor=_PATCH, min_pixels=min(min_pixels, max_pixels), max_pixels=max_pixels)
    shape = PromptShape(
        frames=len(plan.moments) // 2,
        height=high // _PATCH,
        width=wide // _PATCH,
        mel=math.floor(100 * seconds) if audio else 0,
        text=text,
        seconds_per_frame=2 / plan.fps,
    )
    if shape.prompt > _MAX_TOKENS:
        raise UsageError(f"{shape.prompt:,} prompt tokens are more than {_MAX_TOKENS:,}; lower --max-frames or --fps")
    return shape
