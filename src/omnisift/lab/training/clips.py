"""Training clips from the generated world, as arrays or through an .mp4 file, with a label for every token."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from omnisift.media import read
from omnisift.models import adapter_for
from omnisift.world import (
    Scene,
    Truth,
    make_scene,
    render_audio,
    render_images,
    truth,
    world_setting,
    write_clip,
)
from omnisift.world.truth import TOKEN_PIXELS


@dataclass(frozen=True)
class ClipBatch:
    """Rendered clips and their labels.

    A 6 s clip has 12 images, 96,000 audio samples, 6 frames and 150 audio tokens; other settings of the world are
    longer, or have no audio (no samples).
    """

    scenes: list[Scene]
    truths: list[Truth]
    images: NDArray[np.uint8]
    """[B, 12, 112, 112, 3]."""
    waves: Tensor
    """[B, 96000] float32."""
    video_class: Tensor
    """[B, 6, 16] int64: 0 for background, else 1 + colour * 4 + form."""
    audio_class: Tensor
    """[B, 150] int64: 0 for silence, else 1 + kind of sound."""


@dataclass(frozen=True)
class HostForm:
    """How a host reads the clips of the world."""

    factor: int = 28
    """Pixels along one side of a token."""
    side: int | None = None
    """Pixels along one side of the images that it reads; None reads them as they are drawn."""
    audio_rate: int = 25
    """Audio tokens per second."""

    @classmethod
    def of(cls, model: Any, size: int) -> HostForm:
        """The form of clips of ``size`` pixels for a model, whose frames have as many tokens as Qwen2.5-Omni's."""
        adapter = adapter_for(model)
        vision = adapter.config.vision_config
        factor = int(vision.patch_size * vision.spatial_merge_size)
        return cls(factor, size // TOKEN_PIXELS * factor, adapter.audio_tokens(100))


def clip_batches(
    split: str,
    first: int,
    count: int,
    decoded_share: float,
    size: int = 25,
    setting: str = "base",
    form: HostForm | None = None,
) -> Iterator[ClipBatch]:
    """Render clips ``first .. first + count - 1`` of a split.

    The seed decides which clips are written to a file and decoded again, so the same call gives the same clips on every
    machine with the same codecs.

    Args:
        split: ``train``, ``validation`` or ``test``.
        first: number of the first clip.
        count: number of clips.
        decoded_share: share of the clips that go through a file.
        size: clips per batch.
        setting: a setting of the world.
        form: how the host reads them; None for nano.

    Yields:
        Batches of ``size`` clips; the last may be smaller.
    """
    config, form = world_setting(setting).config, form or HostForm()
    with tempfile.TemporaryDirectory() as folder:
        for start in range(first, first + count, size):
            scenes = [make_scene(seed, split, config) for seed in range(start, min(first + count, start + size))]
            yield _batch(scenes, decoded_share, Path(folder) / "clip.mp4", form)


def frame_batches(
    split: str, first: int, count: int, setting: str, size: int = 100, form: HostForm | None = None
) -> Iterator[ClipBatch]:
    """Render one frame (a pair of images) of each of many clips, without sound: different shapes teach an encoder more
    than other moments of the same ones.

    Args:
        split, first, count, setting, form: see `clip_batches`.
        size: clips per batch.

    Yields:
        Batches whose clips have one frame, the one in which the clip's number falls.
    """
    config = world_setting(setting).config
    for start in range(first, first + count, size):
        scenes = [make_scene(seed, split, config) for seed in range(start, min(first + count, start + size))]
        truths = [truth(scene) for scene in scenes]
        frames = [scene.seed % len(labels.video_class) for scene, labels in zip(scenes, truths, strict=True)]
        pairs = [render_images(s, np.array([2 * f, 2 * f + 1])) for s, f in zip(scenes, frames, strict=True)]
        labels = [t.video_class[f].reshape(1, -1) for t, f in zip(truths, frames, strict=True)]
        nothing = torch.zeros(len(scenes), 0)
        classes = torch.from_numpy(np.stack(labels))
        images = enlarge(np.stack(pairs), form.side if form else None)
        yield ClipBatch(scenes, truths, images, nothing, classes, nothing.long())


def _batch(scenes: list[Scene], decoded_share: float, path: Path, form: HostForm) -> ClipBatch:
    rendered = [
        _decoded(scene, path, form) if _is_decoded(scene, decoded_share) else _arrays(scene, form) for scene in scenes
    ]
    truths = [truth(scene, form.audio_rate) for scene in scenes]
    return ClipBatch(
        scenes,
        truths,
        np.stack([images for images, _ in rendered]),
        torch.from_numpy(np.stack([wave for _, wave in rendered])),
        torch.from_numpy(np.stack([t.video_class.reshape(len(t.video_class), -1) for t in truths])),
        torch.from_numpy(np.stack([t.audio_class for t in truths])),
    )


def _is_decoded(scene: Scene, share: float) -> bool:
    """Spread evenly over the seeds by multiples of the golden ratio."""
    return (scene.seed * 0.6180339887498949) % 1.0 < share


def enlarge(images: NDArray[np.uint8], side: int | None) -> NDArray[np.uint8]:
    """Scale square images [..., H, W, 3] to ``side`` pixels, as the reader of files does; None leaves them."""
    if side is None or images.shape[-2] == side:
        return images
    flat = torch.from_numpy(images).flatten(0, -4).permute(0, 3, 1, 2)
    parts = [F.interpolate(part, size=(side, side), mode="bicubic", antialias=True) for part in torch.split(flat, 64)]
    return torch.cat(parts).permute(0, 2, 3, 1).reshape(*images.shape[:-3], side, side, 3).numpy()


def _arrays(scene: Scene, form: HostForm) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    return enlarge(render_images(scene), form.side), render_audio(scene)


def _decoded(scene: Scene, path: Path, form: HostForm) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The clip after the codecs and the library's reader."""
    write_clip(scene, path)
    config = scene.config
    # Read at the size that was written, or at that of the host: the least size that is rounded up to it.
    side = form.side or config.size
    least = (side - form.factor // 2) ** 2 if side > config.size else side * side
    media = read(path, fps=float(config.fps), min_pixels=least, max_pixels=side * side, factor=form.factor)
    count, samples = config.seconds * config.fps, config.seconds * config.sample_rate
    if media.images is None or (media.waveform is None) == config.sound or len(media.images) < count:
        raise RuntimeError(f"clip {scene.seed} lost its video or audio in {path.name}")
    if media.waveform is None:
        return media.images[:count], np.zeros(0, np.float32)
    wave = np.zeros(samples, np.float32)
    wave[: min(samples, len(media.waveform))] = media.waveform[:samples]
    return media.images[:count], wave
