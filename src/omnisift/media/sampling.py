"""Which moments of a video become images: by time (default), or by frame number as published results did."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Literal

import numpy as np
import numpy.typing as npt

from omnisift.errors import UsageError
from omnisift.media.units import TEMPORAL_PATCH

MIN_FPS = 1e-4
"""Fewest frames per second: one in three hours. Times of rarer frames would leave the range of positions."""
TIME_TOLERANCE = 1e-4
"""Seconds: time stamps are rounded to the container's ticks, so a frame this little late still counts as on time."""

QWEN_MIN_FRAMES, QWEN_MAX_FRAMES = 4, 768
MAX_FRAMES = 256
"""Images per clip by default: two minutes at the default rate; longer videos are sampled more sparsely."""
MAX_SECONDS = 7200.0
"""Longest part of a clip that is read by default; a warning says where the rest was left out."""

Sampling = Literal["time", "qwen"]


@dataclass(frozen=True)
class SamplingGrid:
    """The moments at which one video is sampled."""

    moments: npt.NDArray[np.float64]
    """[N] seconds on the media clock, sorted, N even; each becomes the image that is shown then."""
    fps: float
    """Images per second of the grid."""
    capped: bool
    """True if ``max_frames`` lowered the rate."""


def by_time(seconds: float, fps: float, max_frames: int) -> SamplingGrid:
    """Sample by time: image k stands for the moment ``k / fps``.

    The number of images is ``seconds * fps``, rounded, then raised to an even number (never lowered, so nothing is
    lost; a moment after the end shows the last frame). Over ``max_frames`` so many images are spread evenly over the
    entire video, at the lower rate ``max_frames / seconds``.

    Args:
        seconds: length of the video.
        fps: images per second.
        max_frames: most images.
    """
    count = max(TEMPORAL_PATCH, _even_up(math.floor(seconds * fps + 0.5)))
    capped = count > _even_down(max_frames)
    if capped:
        count = _even_down(max_frames)
        fps = count / seconds
    return SamplingGrid(np.arange(count) / fps, fps, capped)


def by_index(shown_times: npt.NDArray[np.float64], frame_rate: float, fps: float, max_frames: int) -> SamplingGrid:
    """Sample by frame number, as ``qwen-omni-utils`` 0.0.9 does: evenly spaced numbers, both ends included.

    The number of images is ``F / frame_rate * fps``, at least 4, at most ``max_frames`` and F, rounded down to an even
    number. The frame numbers are float32 steps from 0 to F - 1, rounded half to even. The stated rate is ``N / F *
    frame_rate``, although the real distance is a little larger. This rule is kept for comparison with published
    numbers. A video of one frame, which that library refuses, gives this frame twice.

    Args:
        shown_times: [F] seconds, when the frames are shown.
        frame_rate: the track's average frames per second.
        fps: images per second.
        max_frames: most images.
    """
    import torch  # its float32 steps are part of the rule; nothing else here needs torch

    # Count: F / frame_rate * fps within the limits, even.
    total = len(shown_times)
    target = total / frame_rate * fps
    limit = min(_even_down(max_frames), total)
    count = _even_down(int(min(max(target, QWEN_MIN_FRAMES), limit)))
    count = max(count, TEMPORAL_PATCH)
    # float32 steps: in float64 a few of the ties would be rounded to the other neighbour.
    steps = torch.linspace(0, total - 1, count, dtype=torch.float32)
    numbers = torch.round(steps).to(torch.int64).numpy()
    return SamplingGrid(shown_times[numbers], count / total * frame_rate, capped=target > limit)


def check_sampling(sampling: str, max_frames: int | None) -> int:
    """Return the maximum number of images, whose default depends on ``sampling``; `UsageError` for an unknown one."""
    if sampling not in ("time", "qwen"):
        raise UsageError(f'sampling must be "time" or "qwen", got {sampling!r}')
    if max_frames is None:
        return QWEN_MAX_FRAMES if sampling == "qwen" else MAX_FRAMES
    return max_frames


def check_numbers(fps: float, max_frames: int, start: float, end: float | None, max_seconds: float) -> None:
    """Raise `UsageError` for sampling arguments that are out of range; they are those of `read`."""
    numbers = {"fps": fps, "max_frames": max_frames, "start": start, "end": end, "max_seconds": max_seconds}
    for name, value in numbers.items():
        if not isinstance(value, Real) and not (name == "end" and value is None):
            raise UsageError(f"{name} must be a number, got {type(value).__name__}")
    if not (MIN_FPS <= fps <= 1000):
        raise UsageError(f"fps must be above 0 (at least {MIN_FPS}) and at most 1000, got {fps}")
    if max_frames < TEMPORAL_PATCH:
        raise UsageError(f"max_frames must be at least {TEMPORAL_PATCH}, got {max_frames}")
    if not (math.isfinite(start) and start >= 0):
        raise UsageError(f"start must be 0 or more seconds, got {start}")
    if end is not None and not end > start:
        raise UsageError(f"end must be after start={start}, got {end}")
    if not max_seconds > 0:
        raise UsageError(f"max_seconds must be above 0, got {max_seconds}")


def _even_up(count: int) -> int:
    return count + count % TEMPORAL_PATCH


def _even_down(count: int) -> int:
    return count - count % TEMPORAL_PATCH
