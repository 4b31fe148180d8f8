"""A video with its audio as ONE item of vLLM's modality ``video``.

One item has one content hash, one placeholder, one encoder call and one entry in each cache. Two videos with the same
frames and different audio therefore never share a cache entry, and the selector gets both modalities together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from omnisift.serving.vllm.internals import (
    ModalityDataItems,
    MultiModalDataItems,
    Qwen2_5OmniThinkerMultiModalDataParser,
)

IMAGES_PER_FRAME = 2
"""Images that one frame of the token grid covers."""
DEFAULT_FPS = 2.0


@dataclass(frozen=True)
class Clip:
    """Images of one video, their rate, and its audio."""

    images: Any
    """[N, H, W, 3] uint8, or another form in which the Hugging Face processor takes a video."""
    fps: float | None = None
    """Images per second; None if unknown."""
    audio: Any = None
    """[S] float32 at the feature extractor's rate; None without audio."""

    @property
    def hashable(self) -> dict[str, Any]:
        """The content that the item's hash covers."""
        return {"images": self.images, "fps": self.fps, "audio": self.audio}


class Clips(ModalityDataItems):  # type: ignore[misc]  # vLLM is not installed when types are checked
    """The videos of a prompt."""

    data: Sequence[Clip]

    def __init__(self, clips: Sequence[Clip]) -> None:
        super().__init__(clips, "video")

    def get_count(self) -> int:
        """Return the number of videos."""
        return len(self.data)

    def get(self, index: int) -> Clip:
        """Return one video."""
        return self.data[index]

    def get_item_for_hash(self, index: int) -> object:
        """Return images, rate and audio."""
        return self.data[index].hashable

    def get_processor_data(self) -> Mapping[str, object]:
        """Return the images; `Processor` adds the audio to the other audio inputs."""
        return {"videos": [clip.images for clip in self.data]}

    def get_passthrough_data(self) -> Mapping[str, object]:
        """Return nothing: all data passes through the processor."""
        return {}

    @property
    def audios(self) -> list[Any]:
        """The audio of the clips that have it, in order."""
        return [clip.audio for clip in self.data if clip.audio is not None]


class ClipParser(Qwen2_5OmniThinkerMultiModalDataParser):  # type: ignore[misc]
    """Makes `Clips` of what a caller passes as video: arrays, (array, metadata) pairs, or clips.

    Metadata may hold ``fps`` and ``audio`` ([S] float32 at the feature extractor's rate).
    """

    def _parse_video_data(self, data: Any) -> Any:
        if data is None:
            return None
        if isinstance(data, Clip):
            data = [data]
        if isinstance(data, list) and data and all(isinstance(item, Clip) for item in data):
            return Clips(data)
        items = super()._parse_video_data(data)
        if not hasattr(items, "metadata"):
            raise ValueError("video embeddings can't be compressed; give the images")
        return Clips([_clip(items.get(index), items.metadata[index]) for index in range(len(items))])


def _clip(images: Any, metadata: Mapping[str, Any] | None) -> Clip:
    if images is None:
        raise ValueError("a video given only by its uuid is not supported; send its content")
    if isinstance(images, tuple):
        images = images[0]
    metadata = metadata or {}
    audio = metadata.get("audio")
    if audio is not None:
        audio = np.asarray(audio, dtype=np.float32)
    fps = metadata.get("fps")
    return Clip(images, None if fps is None else float(fps), audio if audio is not None and len(audio) else None)


def with_audio(items: MultiModalDataItems, use_audio_in_video: bool | None) -> MultiModalDataItems:
    """Apply a request's ``use_audio_in_video`` to its videos.

    Args:
        items: the media of the request.
        use_audio_in_video: None leaves the videos as they are. False drops their audio. True, as in Transformers and
            in vLLM's own model, makes audio item i the audio of video i; videos with audio of their own keep it.

    Returns:
        The media of the request, with audio items that belong to videos moved into them.

    Raises:
        ValueError: True, and there is not one audio item per video.
    """
    clips = items.get("video")
    if clips is None or use_audio_in_video is None:
        return items
    if not use_audio_in_video:
        return MultiModalDataItems({**items, "video": Clips([replace(clip, audio=None) for clip in clips.data])})
    audio_items = items.get("audio")
    if audio_items is None and len(clips.audios) == len(clips):
        return items
    if audio_items is None or len(audio_items) != len(clips):
        raise ValueError(
            f"use_audio_in_video needs one audio item per video, got {0 if audio_items is None else len(audio_items)} "
            f"for {len(clips)}"
        )
    merged = [
        clip if clip.audio is not None else replace(clip, audio=audio_items.get(index))
        for index, clip in enumerate(clips.data)
    ]
    return MultiModalDataItems(
        {**{key: value for key, value in items.items() if key != "audio"}, "video": Clips(merged)}
    )


def seconds_per_grid(clips: Clips, fps: float | None) -> torch.Tensor:
    """Return the duration of a frame of the token grid, for each clip.

    Args:
        clips: the videos of a prompt.
        fps: rate of the clips that have none of their own; None for `DEFAULT_FPS`.

    Returns:
        [clips] float64, seconds: the host's processor sorts tokens in this precision.
    """
    rates = [clip.fps or fps or DEFAULT_FPS for clip in clips.data]
    return torch.tensor([IMAGES_PER_FRAME / rate for rate in rates], dtype=torch.float64)
