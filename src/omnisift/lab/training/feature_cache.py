"""The frozen encoders' outputs for many clips in half precision; the language model trains on these."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from omnisift.lab.training.clips import ClipBatch, HostForm, clip_batches
from omnisift.lab.training.encoder_training import color_and_form, title_of
from omnisift.lab.training.encoders import log_mel
from omnisift.lab.training.host_encoders import frame_tokens, sound_tokens
from omnisift.lab.training.nano_model import core_of
from omnisift.world import COLOR_NAMES, SHAPES, SOUNDS, WORDS, Scene, Truth, make_scene, truth, world_setting
from omnisift.world.truth import AUDIO_TOKENS_PER_SECOND, TOKEN_PIXELS

logger = logging.getLogger(__name__)


@dataclass
class FeatureCache:
    """Encoder outputs and labels of ``N`` clips of one split; labels are recomputed from the seeds."""

    split: str
    """Split of the world."""
    first: int
    """Number of the first clip."""
    video: Tensor
    """[N, 96, D] float16: frames of 16 tokens; 96 in six seconds. A host with deepstack has [N, 96, (1 + levels) D]:
    the tokens, then their features of each level."""
    audio: Tensor
    """[N, 150, D] float16; 150 in six seconds, none without audio."""
    setting: str = "base"
    """Setting of the world."""

    def __post_init__(self) -> None:
        config = world_setting(self.setting).config
        rate = self.audio.shape[1] // config.seconds or AUDIO_TOKENS_PER_SECOND
        self.scenes: list[Scene] = [make_scene(self.first + i, self.split, config) for i in range(len(self.video))]
        self.truths: list[Truth] = [truth(scene, rate) for scene in self.scenes]
        self.video_class = torch.stack([torch.from_numpy(t.video_class.reshape(-1)) for t in self.truths])
        """[N, 96] int64, as in `Truth`."""
        self.audio_class = torch.stack([torch.from_numpy(t.audio_class) for t in self.truths])
        """[N, 150] int64, as in `Truth`."""
        self.audio_owner = torch.stack([torch.from_numpy(t.audio_owner) for t in self.truths])
        """[N, 150] int64: 1 + index of the shape that the sound belongs to, -1 for a distractor, 0 for silence."""
        self.visible = torch.stack([_visible(s, t) for s, t in zip(self.scenes, self.truths, strict=True)])
        """[N, 150] int64: class (as in ``video_class``) of the shape on screen during the audio token."""
        self.side = config.size // TOKEN_PIXELS
        """Tokens along one side of a frame."""

    def __len__(self) -> int:
        return len(self.video)

    def save(self, path: Path) -> None:
        """Write the features as safetensors."""
        about = {"split": self.split, "first": str(self.first), "setting": self.setting}
        save_file({"video": self.video.contiguous(), "audio": self.audio.contiguous()}, str(path), metadata=about)

    @classmethod
    def load(cls, path: Path, split: str, first: int = 0, setting: str = "base") -> FeatureCache:
        """Read what `save` wrote."""
        tensors = load_file(str(path))
        return cls(split, first, tensors["video"], tensors["audio"], setting)


def _visible(scene: Scene, labels: Truth) -> Tensor:
    classes = [1 + COLOR_NAMES.index(s.color) * len(SHAPES) + SHAPES.index(s.form) for s in scene.shapes]
    return torch.tensor([*classes, 0])[torch.from_numpy(labels.visible)]


@torch.no_grad()
def encode_features(
    model: Any, split: str, count: int, decoded_share: float, first: int = 0, setting: str = "base"
) -> FeatureCache:
    """Render and encode clips ``first .. first + count - 1``; a clip takes 63 KB.

    Args:
        model: a thinker with nano's encoders.
        split, count, decoded_share, first, setting: see `clip_batches`.
    """
    video, audio, form = [], [], HostForm.of(model, world_setting(setting).config.size)
    for number, batch in enumerate(clip_batches(split, first, count, decoded_share, setting=setting, form=form)):
        v, a = encode_clips(model, batch)
        video.append(v.half())
        audio.append(a.half())
        if number % 20 == 19:
            logger.info("%s: encoded %d of %d clips", split, 25 * (number + 1), count)
    return FeatureCache(split, first, torch.cat(video), torch.cat(audio), setting)


@torch.no_grad()
def encode_clips(model: Any, batch: ClipBatch) -> tuple[Tensor, Tensor]:
    """(video [B, 96, D], audio [B, 150, D]) float32 of rendered clips, as `FeatureCache` has them."""
    frames = frame_tokens(core_of(model).visual, batch.images)
    frames = frames.view(len(batch.images), -1, frames.shape[-1])
    if not batch.waves.shape[1]:
        return frames, frames[:, :0]
    return frames, sound_tokens(core_of(model).audio_tower, log_mel(batch.waves))


def class_means(features: FeatureCache, clips: int = 1000) -> dict[str, Tensor]:
    """Word -> mean encoder output [D] of the tokens that show or sound it, minus the mean over all words of its
    kind."""
    width = features.audio.shape[-1]
    video = features.video[:clips, :, :width].float().flatten(0, 1)
    audio = features.audio[:clips].float().flatten(0, 1)
    video_class, sound_class = features.video_class[:clips].flatten(), features.audio_class[:clips].flatten()
    color, form = color_and_form(video_class)
    means = _means(video, color - 1, COLOR_NAMES) | _means(video, form - 1, SHAPES)
    means |= _means(audio, torch.where(sound_class <= len(SOUNDS), sound_class - 1, -1), SOUNDS)
    # A word may be written and spoken: the sum of both.
    written = _means(video, title_of(video_class) - 1, WORDS)
    spoken = _means(audio, sound_class - 1 - len(SOUNDS), WORDS)
    return means | {word: written[word] + spoken[word] for word in written.keys() & spoken.keys()}


def _means(tokens: Tensor, label: Tensor, words: Sequence[str]) -> dict[str, Tensor]:
    centre = tokens[label >= 0].mean(0)
    return {word: tokens[label == i].mean(0) - centre for i, word in enumerate(words) if bool((label == i).any())}
