"""A video with its own sound as ONE item of vLLM's modality ``video``.

One item has one content hash, one placeholder, one call of the encoders and one entry in every cache. So two videos
with the same picture and different sound never meet in a cache, and the selector sees both together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from vllm.model_executor.models.qwen2_5_omni_thinker import Qwen2_5OmniThinkerMultiModalDataParser
from vllm.multimodal.parse import ModalityDataItems, MultiModalDataItems

IMAGES_PER_FRAME = 2
DEFAULT_FPS = 2.0


@dataclass(frozen=True)
class Clip:
    """Pictures of one video, their rate, and its sound."""

    images: Any
    """[N, H, W, 3] uint8, or what else the Hugging Face processor takes as a video."""
    fps: float | None = None
    """Images per second; None if nobody said."""
    sound: Any = None
    """[S] float32 at the feature extractor's rate; None without sound."""

    @property
    def hashable(self) -> dict[str, Any]:
        """All that makes a difference."""
        return {"images": self.images, "fps": self.fps, "sound": self.sound}


class Clips(ModalityDataItems):  # type: ignore[misc]  # vLLM is not there when types are checked
    """The videos of a prompt."""

    data: Sequence[Clip]

    def __init__(self, clips: Sequence[Clip]) -> None:
        super().__init__(clips, "video")

    def get_count(self) -> int:
        """How many videos."""
        return len(self.data)

    def get(self, index: int) -> Clip:
        """One of them."""
        return self.data[index]

    def get_item_for_hash(self, index: int) -> object:
        """Picture, rate and sound."""
        return self.data[index].hashable

    def get_processor_data(self) -> Mapping[str, object]:
        """The pictures; the sound is put beside other sound by the processor."""
        return {"videos": [clip.images for clip in self.data]}

    def get_passthrough_data(self) -> Mapping[str, object]:
        """Nothing goes around the processor."""
        return {}

    @property
    def sounds(self) -> list[Any]:
        """Of the clips that have sound, in order."""
        return [clip.sound for clip in self.data if clip.sound is not None]


class ClipParser(Qwen2_5OmniThinkerMultiModalDataParser):  # type: ignore[misc]
    """Makes `Clips` of what a caller gave as video: arrays, (array, metadata) pairs, or clips.

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
            raise ValueError("video embeddings can't be compressed: give the pictures")
        return Clips([_clip(items.get(index), items.metadata[index]) for index in range(len(items))])


def _clip(images: Any, metadata: Mapping[str, Any] | None) -> Clip:
    if images is None:
        raise ValueError("a video with a uuid alone is not supported: send its content")
    if isinstance(images, tuple):
        images = images[0]
    told = metadata or {}
    sound = told.get("audio")
    if sound is not None:
        sound = np.asarray(sound, dtype=np.float32)
    rate = told.get("fps")
    return Clip(images, None if rate is None else float(rate), sound if sound is not None and len(sound) else None)


def with_sound(items: MultiModalDataItems, use_audio_in_video: bool | None) -> MultiModalDataItems:
    """Let a request say how its videos sound: None as they are, False not at all, True by its audio items.

    With True (the way of Transformers and of plain vLLM) audio item i is the sound of video i; those that have their
    own keep it. Raises `ValueError` if there is not one for each.
    """
    clips = items.get("video")
    if clips is None or use_audio_in_video is None:
        return items
    if not use_audio_in_video:
        return MultiModalDataItems({**items, "video": Clips([replace(clip, sound=None) for clip in clips.data])})
    audios = items.get("audio")
    if audios is None and len(clips.sounds) == len(clips):
        return items
    if audios is None or len(audios) != len(clips):
        raise ValueError(
            f"use_audio_in_video needs one sound for each video, got {0 if audios is None else len(audios)} "
            f"for {len(clips)}"
        )
    folded = [
        clip if clip.sound is not None else replace(clip, sound=audios.get(index))
        for index, clip in enumerate(clips.data)
    ]
    return MultiModalDataItems(
        {**{key: value for key, value in items.items() if key != "audio"}, "video": Clips(folded)}
    )


def seconds_per_grid(clips: Clips, fps: float | None) -> torch.Tensor:
    """[clips] float32: how long a frame of the token grid lasts; ``fps`` for clips that don't say their own."""
    rates = [clip.fps or fps or DEFAULT_FPS for clip in clips.data]
    return torch.tensor([IMAGES_PER_FRAME / rate for rate in rates], dtype=torch.float32)
