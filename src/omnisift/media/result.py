"""`Media`: what the reader returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from omnisift.errors import UsageError
from omnisift.media.arrays import (
    ResampledAudio,
    SampledFrames,
    check_frames,
    check_waveform,
    resample,
    sample_frames,
)
from omnisift.media.image import smart_size
from omnisift.media.lines import Line, check_lines, in_order
from omnisift.media.sampling import MAX_SECONDS, Sampling, check_numbers, check_sampling
from omnisift.media.units import SAMPLE_RATE, TEMPORAL_PATCH


@dataclass(frozen=True)
class Media:
    """Images and audio of one file, on one clock that starts at 0."""

    path: Path
    """The file that was read; ``<BytesIO>`` or the like for a file object without a name, ``<arrays>`` for arrays."""
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
    lines: tuple[Line, ...] = ()
    """Lines of text with their times, in order of their start; empty unless subtitles were asked for."""

    def __post_init__(self) -> None:
        """Check the lines, which callers may replace, and put them in order. Raises `UsageError` if one is wrong."""
        object.__setattr__(self, "lines", in_order(self.lines))

    @classmethod
    def from_arrays(
        cls,
        frames: Any = None,
        fps: float | None = None,
        waveform: Any = None,
        sample_rate: int | None = None,
        *,
        sampling_fps: float = 2.0,
        max_frames: int | None = None,
        min_pixels: int = 128 * 784,
        max_pixels: int = 320 * 784,
        factor: int = 28,
        sampling: Sampling = "time",
        max_seconds: float = MAX_SECONDS,
        lines: Sequence[Line | tuple[float, float, str]] = (),
    ) -> Media:
        """Make a clip of frames and samples that are in memory; both begin at 0.

        They are sampled and scaled as `omnisift.media.read` does it with a file. The arrays are not changed.

        Args:
            frames: [N, H, W, 3] uint8 RGB, as a NumPy array or tensor; None for audio alone.
            fps: frames per second of ``frames``.
            waveform: [S] or [C, S]; floats in [-1, 1], or uint8, int16 or int32; None for video alone.
            sample_rate: samples per second of ``waveform``.
            sampling_fps: images sampled per second, the ``fps`` of `omnisift.media.read`.
            max_frames, min_pixels, max_pixels, factor, sampling, max_seconds: as in `omnisift.media.read`.
            lines: text with its times, each a `Line` or ``(start, end, text)`` in seconds; markup is removed.

        Returns:
            The clip, with ``<arrays>`` as its path.

        Raises:
            UsageError: an argument is wrong, or neither frames nor a waveform are given.
            TooBig: the images are over 8192 x 4320, one side is over 200 times the other, or there is too much text.
        """
        limit = check_sampling(sampling, max_frames)
        check_numbers(sampling_fps, limit, 0.0, None, max_seconds)
        size = {"factor": factor, "min_pixels": min_pixels, "max_pixels": max_pixels}
        smart_size(factor, factor, **size)
        if frames is None and waveform is None:
            raise UsageError("a clip needs frames, a waveform or both, got None for both")
        samples = None if waveform is None else check_waveform(waveform, sample_rate)
        video, audio = SampledFrames(), ResampledAudio()
        if frames is not None:
            options: dict[str, Any] = {"max_frames": limit, "sampling": sampling, "max_seconds": max_seconds, **size}
            video = sample_frames(check_frames(frames, fps), float(fps or 0), fps=sampling_fps, **options)
        if samples is not None:
            audio = resample(samples, int(sample_rate or 0), max_seconds)
        cuts = dict.fromkeys(video.cuts + audio.cuts)
        audio_seconds = 0.0 if audio.waveform is None else len(audio.waveform) / SAMPLE_RATE
        seconds = max(video.seconds, audio_seconds)
        kept, behind = check_lines(lines, seconds)
        return cls(
            path=Path("<arrays>"),
            images=video.images,
            times=video.times,
            indices=video.indices,
            fps=video.fps,
            waveform=audio.waveform,
            seconds=seconds,
            video_seconds=video.seconds,
            capped=bool(cuts),
            bad_packets=0,
            warnings=(*cuts, *audio.warnings, *behind),
            lines=kept,
        )

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
