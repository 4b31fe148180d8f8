"""Prompts of the Omni families about clips of random numbers, as their processors make them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnisift.models import adapter_class

IMAGES_PER_SECOND, MAX_IMAGES = 2.0, 256
"""How `Pipeline.ask` samples a video."""
_MEL_PER_SECOND = 100
_FIRST_WORD = 20
"""Token ids below it have a meaning in some vocabularies."""


@dataclass(frozen=True)
class ClipShape:
    """Size of a clip that is made of random numbers."""

    seconds: float
    height: int = 13
    """Video tokens along a frame's height; 13 x 23 is a 16:9 video at the paper's largest image."""
    width: int = 23

    @property
    def frames(self) -> int:
        """Time steps of the token grid; each covers two images."""
        return int(min(self.seconds * IMAGES_PER_SECOND, MAX_IMAGES)) // 2

    @property
    def seconds_per_frame(self) -> float:
        """Time between two frames."""
        return self.seconds / self.frames

    @property
    def mel(self) -> int:
        """Frames of the spectrogram."""
        return int(self.seconds * _MEL_PER_SECOND)


def qwen2_5_omni_prompt(
    config: Any, clip: ClipShape, text: int, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Return a prompt of Qwen2.5-Omni about one clip with audio: the video of two seconds, then their audio, and so on.

    Args:
        config: of the Thinker.
        clip: size of the clip.
        text: tokens of the question and the chat template; half of them precede the clip.
        device: of the inputs.
        dtype: of pixels and spectrogram.
    """
    steps = config.position_id_per_seconds * config.seconds_per_chunk
    position = (torch.arange(clip.frames) * clip.seconds_per_frame * config.position_id_per_seconds).long()
    return _prompt(config, clip, text, device, dtype, position // steps, steps)


def qwen3_omni_prompt(
    config: Any, clip: ClipShape, text: int, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Return a prompt of Qwen3-Omni: each frame at its time, then the audio up to the next. Arguments as above."""
    position = torch.arange(clip.frames, dtype=torch.float64) * clip.seconds_per_frame * config.position_id_per_seconds
    return _prompt(config, clip, text, device, dtype, position, 1)


def _prompt(
    config: Any, clip: ClipShape, text: int, device: torch.device, dtype: torch.dtype, turn: Tensor, steps: int
) -> dict[str, Any]:
    """A prompt in which each frame has a turn [frames], and so many audio tokens share one."""
    random = torch.Generator().manual_seed(round(clip.seconds))
    words = torch.randint(_FIRST_WORD, _FIRST_WORD + 50, (text,), generator=random)
    before, after = words[: text // 2], words[text // 2 :]
    marks = [config.vision_start_token_id, config.audio_start_token_id]
    ends = [config.audio_end_token_id, config.vision_end_token_id]
    ids = torch.cat([before, torch.tensor(marks), _ids(config, clip, turn, steps), torch.tensor(ends), after])[None]
    vision = config.vision_config
    merge = vision.spatial_merge_size
    grid = torch.tensor([[clip.frames, merge * clip.height, merge * clip.width]])
    patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "video_grid_thw": grid,
        "video_second_per_grid": torch.tensor([clip.seconds_per_frame]),
        "feature_attention_mask": torch.ones(1, clip.mel, dtype=torch.int64),
    }
    moved: dict[str, Any] = {name: value.to(device) for name, value in inputs.items()}
    moved["pixel_values_videos"] = _moving_pixels(grid[0].tolist(), patch, device).to(dtype)
    mel = torch.randn(1, config.audio_config.num_mel_bins, clip.mel, device=device)
    return {**moved, "input_features": mel.to(dtype), "use_audio_in_video": True}


def _ids(config: Any, clip: ClipShape, turn: Tensor, steps: int) -> Tensor:
    """[N] ids of the clip's tokens in the order of their turns; the sort is stable, so video precedes audio in each."""
    video = turn.double().repeat_interleave(clip.height * clip.width)
    count = adapter_class(config.model_type).without_model(config).audio_tokens(clip.mel)
    audio = torch.arange(count) // steps
    order = torch.cat([video, audio.double()]).argsort(stable=True)
    ids = torch.full((len(order),), config.audio_token_id)
    ids[: len(video)] = config.video_token_id
    return ids[order]


def _moving_pixels(grid: list[int], patch: int, device: torch.device) -> Tensor:
    """[T * H * W, patch]: frames that share most of their content, as those of a video do."""
    frames, height, width = grid
    torch.manual_seed(frames)
    scene = torch.randn(1, height * width, patch, device=device)
    change = torch.rand(frames, height * width, 1, device=device) ** 4
    pixels = (1 - change) * scene + change * torch.randn(frames, height * width, patch, device=device)
    return pixels.flatten(0, 1)
