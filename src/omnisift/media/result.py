"""`Media`: what the reader returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

SAMPLE_RATE = 16_000
"""Samples per second of every waveform: the rate of the audio encoder's feature extractor."""

TEMPORAL_PATCH = 2
"""Images per frame of the token grid; the number of images is always a multiple of it."""


@dataclass(frozen=True)
class Media:
    """Images and audio of one file, on one clock that starts at 0."""

    path: Path
    """The file that was read."""
    images: npt.NDArray[np.uint8] | None
    """[N, H, W, 3] uint8 RGB, N even, H and W at their final size; None without video."""
    times: npt.NDArray[np.float64]
    """[N] seconds: when the file itself shows each image (a held or repeated image keeps its own time)."""
    indices: npt.NDArray[np.int64]
    """[N]: number of each image among the frames of the file, in display order."""
    fps: float
    """Images per second of the sampling grid, exact: image k stands for the moment ``k / fps``. 0 without video."""
    waveform: npt.NDArray[np.float32] | None
    """[S] float32 within [-1, 1], mono, `SAMPLE_RATE`; sample s is at ``s / SAMPLE_RATE``. None without audio."""
    seconds: float
    """Length of what was read: the later end of video and audio."""
    video_seconds: float
    """Length of the video, 0 without one."""
    capped: bool
    """True if a limit (``max_frames`` or ``max_seconds``) reduced what was read."""
    bad_packets: int
    """Packets that could not be decoded and were left out."""
    warnings: tuple[str, ...]
    """Sentences about everything unusual."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """The container's own metadata (title, comment ...), keys in lower case."""

    @property
    def has_video(self) -> bool:
        """Whether there are images."""
        return self.images is not None

    @property
    def has_audio(self) -> bool:
        """Whether there is audio."""
        return self.waveform is not None

    @property
    def audio_seconds(self) -> float:
        """Length of the audio, 0 without one."""
        return 0.0 if self.waveform is None else len(self.waveform) / SAMPLE_RATE

    @property
    def seconds_per_grid(self) -> float:
        """Seconds per frame of the token grid (two images), which the processor needs."""
        return TEMPORAL_PATCH / self.fps if self.fps else 0.0
