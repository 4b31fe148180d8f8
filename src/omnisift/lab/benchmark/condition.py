"""Conditions of the benchmark: a setting of the generated world, and how its clips are read."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from omnisift.errors import UsageError
from omnisift.lab.benchmark.encoded import Encoded
from omnisift.media import Media
from omnisift.tokens import Modality
from omnisift.utils.suggest import check_choice
from omnisift.world import world_setting
from omnisift.world.settings import Setting

_NOISE_STREAM = 29
_SCALING = Image.Resampling.BICUBIC
_WHOLE = ("pixels", "hold", "detail")
"""Options that are whole numbers."""


@dataclass(frozen=True)
class Condition:
    """A setting and its options, written as ``wide``, ``wide+dark`` or ``wide fps=4 noise=0.5``."""

    setting: str
    fps: float = 2.0
    """Images read per second."""
    pixels: int = 0
    """Maximum pixels per image; 0 means the processor's."""
    shift: float = 0.0
    """Length of one vector that is added to all tokens before a method sees them, in mean norms; the model does not see
    it. Embeddings of large encoders share such a direction."""
    noise: float = 0.0
    """Length of a random vector that is added to each token, in mean norms, for the method and the model."""
    hold: int = 1
    """Number of times that each image is shown while the next ones are left out: what a lower rate tells, at the rate
    that the model knows."""
    detail: int = 0
    """Pixels to which images are scaled down and then up again: what a smaller image tells, at the size that the model
    knows; 0 leaves them."""

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a condition.

        Raises:
            UsageError: The setting or an option is unknown, given twice, or its value is no number above 0.
        """
        setting, *options = text.split() or [""]
        world_setting(setting)
        known = [field.name for field in fields(cls) if field.name != "setting"]
        values: dict[str, Any] = {}
        for option in options:
            name, _, value = option.partition("=")
            check_choice("the option of a setting", name, known)
            if name in values:
                raise UsageError(f"{name} is given twice in the setting {text!r}: give it once")
            try:
                values[name] = int(value) if name in _WHOLE else float(value)
            except ValueError:
                values[name] = 0
            if not 0 < values[name] < 1e9:
                raise UsageError(f"{name} of the setting {text!r} is a number above 0, got {value!r}")
        return cls(setting, **values)

    @property
    def world(self) -> Setting:
        """The setting of the world."""
        return world_setting(self.setting)

    @property
    def as_drawn(self) -> bool:
        """Whether the images read are those that the scene draws, so that its evidence is known token by token."""
        return (self.fps, self.pixels, self.hold, self.detail) == (2.0, 0, 1, 0)

    @property
    def file_name(self) -> str:
        """Name of what the encoders see: two conditions that differ in the embeddings share it."""
        parts = [self.setting]
        parts += [
            f"{name}{getattr(self, name):g}"
            for name in ("fps", "pixels", "hold", "detail")
            if getattr(self, name) != getattr(Condition, name)
        ]
        return "-".join(parts)

    def seen(self, media: Media) -> Media:
        """Hold and coarsen the images of a clip."""
        if media.images is None or (self.hold, self.detail) == (1, 0):
            return media
        images = media.images[np.arange(len(media.images)) // self.hold * self.hold]
        if self.detail:
            images = np.stack([self._coarse(Image.fromarray(image)) for image in images])
        return replace(media, images=images)

    def _coarse(self, image: Image.Image) -> NDArray[np.uint8]:
        scale = min(1.0, (self.detail / (image.width * image.height)) ** 0.5)
        small = image.resize((round(scale * image.width), round(scale * image.height)), _SCALING)
        return np.asarray(small.resize(image.size, _SCALING))

    def noisy(self, clips: Encoded, first: int) -> Encoded:
        """Add the noise to the media tokens of clips; ``first`` is the number of the first one."""
        if not self.noise:
            return clips
        media = clips.modality != Modality.TEXT
        embeds = clips.embeds.clone()
        tokens = embeds[:, media]
        length = tokens.norm(dim=-1).mean() * self.noise
        for row in range(len(tokens)):
            draws = torch.randn(tokens.shape[1:], generator=torch.Generator().manual_seed(_NOISE_STREAM + first + row))
            tokens[row] += draws * length / tokens.shape[-1] ** 0.5
        embeds[:, media] = tokens
        return replace(clips, embeds=embeds)

    def offset(self, clips: Encoded) -> torch.Tensor:
        """Return [D]: what is added to every token that a method sees."""
        width = clips.embeds.shape[-1]
        direction = torch.randn(width, generator=torch.Generator().manual_seed(_NOISE_STREAM))
        length = clips.embeds[:, clips.modality != Modality.TEXT].norm(dim=-1).mean() * self.shift
        offset: torch.Tensor = direction / direction.norm() * length
        return offset
