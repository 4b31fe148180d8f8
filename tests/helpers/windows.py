"""Long clips of noise, small windows, and what a model computes of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.family_folders import FACTORS
from torch import Tensor

from omnisift import Media, Pipeline
from omnisift.models import adapter_for
from omnisift.pipeline import clip_windows, windowed_clip

QUESTION = "What colour is the circle?"
READING = {"fps": 2.0, "max_frames": 256, "max_pixels": None}
TOLERANCE = 1e-4
"""Of logits, whose own size is about 5 to 20: sums of other lengths are added in another order."""


def clip_of(name: str, images: int, seconds: float, fps: float = 2.0, *, rows: int = 2) -> Media:
    """Noise: of frames of 2 x 3 tokens, and of sound for some seconds, if any."""
    random, side = np.random.default_rng(images), FACTORS.get(name, 28)
    noise = (0.1 * random.standard_normal(int(16_000 * seconds))).astype(np.float32)
    return Media(
        path=Path("clip"), images=random.integers(0, 256, (images, rows * side, 3 * side, 3), np.uint8),
        times=np.arange(images) / fps, indices=np.arange(images), fps=fps, waveform=noise if seconds else None,
        seconds=images / fps, video_seconds=images / fps, capped=False, bad_packets=0, warnings=(),
    )  # fmt: skip


@contextmanager
def windows_of(steps: int, monkeypatch: pytest.MonkeyPatch, long_images: int = 2**31) -> Iterator[None]:
    """Windows of so many time steps; many are the whole clip. Files are read in windows above ``long_images``."""
    with monkeypatch.context() as patched:
        patched.setattr(clip_windows, "WINDOW_STEPS", steps)
        patched.setattr(windowed_clip, "LONG_IMAGES", long_images)
        yield


@contextmanager
def watched(pipe: Pipeline) -> Iterator[dict[str, list[Any]]]:
    """Logits of every step, and what the language model is given."""
    seen: dict[str, list[Any]] = {"logits": [], "positions": [], "embeds": [], "patches": []}
    parts = adapter_for(pipe.host.thinker).parts

    def read(_module: Any, _args: Any, kwargs: dict[str, Any], _output: Any) -> None:
        seen["positions"].append(kwargs["position_ids"])
        seen["embeds"].append(kwargs["inputs_embeds"])

    def encoded(_module: Any, args: tuple[Tensor, ...], kwargs: dict[str, Any], _output: Any) -> None:
        patches = args[0] if args else kwargs.get("hidden_states", kwargs.get("pixel_values"))
        seen["patches"].append(len(patches))

    hooks = [
        pipe.host.thinker.register_forward_hook(lambda _m, _a, out: seen["logits"].append(out.logits[0, -1].clone())),
        parts.language_model.register_forward_hook(read, with_kwargs=True),
        parts.vision_encoder.register_forward_hook(encoded, with_kwargs=True),  # type: ignore[union-attr]
    ]
    yield seen
    for hook in hooks:
        hook.remove()
