"""Size of a prompt from the length and size of a clip, by the rules of the reader and the processor."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from omnisift.chunks import ChunkShapes
from omnisift.errors import UsageError
from omnisift.media.image import smart_size
from omnisift.media.sampling import by_time, check_numbers
from omnisift.models import Adapter, Prompt, adapter_class
from omnisift.tokens import Modality

_MAX_FRAME_TOKENS = 320
"""Maximum tokens of a frame in the paper, and by default in `Pipeline.ask`."""
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
    """Tokens of the question, the chat template and the markers, without the times of frames."""
    seconds_per_frame: float
    config: Any = field(default=None, repr=False, compare=False)
    """Configuration of the host; None means Qwen2.5-Omni."""

    @property
    def adapter(self) -> Adapter:
        """What the family of the host knows."""
        return _adapter(self.config)

    @property
    def video(self) -> int:
        """Number of video tokens."""
        return self.frames * self.height * self.width

    @property
    def audio(self) -> int:
        """Number of audio tokens."""
        return self.adapter.audio_tokens(self.mel)

    @property
    def times(self) -> int:
        """Number of tokens that tell the times of frames in words."""
        adapter = self.adapter
        # The time of a frame is the mean of those of its two images.
        return sum(adapter.time_tokens((frame + 0.25) * self.seconds_per_frame) for frame in range(self.frames))

    @property
    def prompt(self) -> int:
        """Number of tokens of the prompt."""
        return self.video + self.audio + self.times + self.text

    @property
    def grid(self) -> tuple[int, int, int]:
        """Time steps, height and width in video tokens; zeros without video."""
        return self.frames, self.height, self.width

    def chunks(self, *, compress_audio: bool = False) -> ChunkShapes:
        """Return the tokens of every chunk, by the layout of the family; of audio alone if it is compressed."""
        adapter = self.adapter
        modality = torch.full((1, self.video + self.audio), int(Modality.AUDIO), dtype=torch.int8)
        modality[:, : self.video] = int(Modality.VIDEO)
        merge = adapter.config.vision_config.spatial_merge_size
        grid = torch.tensor([[self.frames, merge * self.height, merge * self.width]])
        seconds = [self.seconds_per_frame]
        arguments = {"video_grid_thw": grid, "video_second_per_grid": seconds, "second_per_grid_ts": seconds}
        mask = torch.ones_like(modality, dtype=torch.bool)
        prompt = Prompt(modality.long(), mask, modality, arguments, seconds, compress_audio)
        return ChunkShapes.of(adapter.layout(prompt).stream(torch.empty(*modality.shape, 0)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        own = {name: value for name, value in vars(self).items() if name != "config"}
        return {**own, "times": self.times}


def prompt_shape(
    seconds: float,
    height: int = 1080,
    width: int = 1920,
    *,
    config: Any = None,
    fps: float = 2.0,
    max_frames: int = 256,
    max_pixels: int | None = None,
    min_pixels: int | None = None,
    text: int = 128,
    audio: bool = True,
) -> PromptShape:
    """Return the size of the prompt of a clip, sampled and scaled as in `Pipeline.ask`.

    Args:
        seconds: Length of the clip.
        height: Height of its frames in pixels.
        width: Width of its frames in pixels.
        config: Configuration of the host; None means Qwen2.5-Omni.
        fps: Images per second to sample.
        max_frames: Maximum number of images.
        max_pixels: Maximum pixels per image; None means the paper's 320 tokens, or fewer where the family's processor
            limits the clip as a whole.
        min_pixels: Minimum pixels per image; None means that of the family's processor.
        text: Tokens of the question, the chat template and the markers, without the times of frames.
        audio: Whether the clip has audio, which counts for families that hear.

    Raises:
        UsageError: A number is out of range.
    """
    if not 0 < seconds <= _MAX_SECONDS:
        raise UsageError(f"seconds must be above 0 and at most {_MAX_SECONDS:.0f}, got {seconds}")
    if text < 1:
        raise UsageError(f"text must be at least 1 token, got {text}")
    check_numbers(fps, max_frames, 0.0, None, seconds)
    plan = by_time(seconds, fps, max_frames)
    adapter = _adapter(config)
    factor = token_side(adapter.config)
    highest = max_pixels
    if highest is None:
        highest = _MAX_FRAME_TOKENS * factor**2
        if adapter.max_clip_pixels is not None:
            highest = min(highest, max(factor**2, adapter.max_clip_pixels // len(plan.moments)))
    lowest = min(highest, adapter.min_frame_tokens * factor**2 if min_pixels is None else min_pixels)
    high, wide = smart_size(height, width, factor=factor, min_pixels=lowest, max_pixels=highest)
    mel = math.floor(100 * seconds) if audio else 0
    shape = PromptShape(
        frames=len(plan.moments) // 2,
        height=high // factor,
        width=wide // factor,
        mel=mel if adapter.audio_tokens(mel) else 0,
        text=text,
        seconds_per_frame=2 / plan.fps,
        config=config,
    )
    if shape.prompt > _MAX_TOKENS:
        raise UsageError(f"{shape.prompt:,} prompt tokens are more than {_MAX_TOKENS:,}; lower --max-frames or --fps")
    return shape


def token_side(config: Any) -> int:
    """Pixels along one side of a video token of a host."""
    vision = config.vision_config
    return int(vision.patch_size * vision.spatial_merge_size)


def _adapter(config: Any) -> Adapter:
    if config is None:
        from transformers import Qwen2_5OmniThinkerConfig

        config = Qwen2_5OmniThinkerConfig()
    return adapter_class(config.model_type).without_model(config)
