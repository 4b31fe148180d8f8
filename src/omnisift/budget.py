"""Retention ratio to integer counts, from shapes alone: serving engines need them before any embedding exists.

Rounding as released: ``kept = n - int(n * rho)`` with ``rho = round(1 - retain, 12)``, a float64 product
(``int(50 * 0.58)`` is 28, not 29). For both frames of a chunk the dropped count comes from the first one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from omnisift.chunks import ChunkShapes
from omnisift.errors import BudgetError

DEFAULT_RETAIN = 0.25
"""The overall ratio where a caller gives none; every entry point takes it from `Budget.from_options`."""
AUDIO_BONUS = 0.25
"""An overall ratio R keeps R + 0.25 of the audio: the paper's Table 6 at 35 % and 25 %, where audio is the small
part."""


@dataclass(frozen=True)
class Counts:
    """How many tokens of each chunk stay. Every compressor keeps exactly these."""

    frame0: Tensor
    """[C] int64 on the CPU."""
    frame1: Tensor
    """[C] int64 on the CPU."""
    audio: Tensor
    """[C] int64 on the CPU."""

    def by_segment(self) -> Tensor:
        """[3C] int64 on the CPU, in the order of `omnisift.chunks.segment_of`."""
        return torch.stack([self.frame0, self.frame1, self.audio], dim=1).flatten()


@dataclass(frozen=True)
class Budget:
    """The fraction of audio-video tokens to keep: ``retain`` overall, or ``retain_video`` and ``retain_audio``.

    Each in (0, 1]. An overall ratio is split for every clip by `rates`; a clip without sound keeps ``retain`` of its
    video.
    """

    retain: float | None = None
    """Share of video and audio tokens together that stays."""
    retain_video: float | None = None
    """Share of the video tokens of every frame that stays."""
    retain_audio: float | None = None
    """Share of the audio tokens of every chunk that stays."""

    def __post_init__(self) -> None:
        by_modality = (self.retain_video, self.retain_audio)
        if self.retain is not None:
            if by_modality != (None, None):
                raise BudgetError(
                    "retain was given with retain_video or retain_audio: give one overall ratio or the two"
                )
            _check("retain", self.retain)
        elif None in by_modality:
            got = f"retain_video={self.retain_video}, retain_audio={self.retain_audio}"
            raise BudgetError(f"a budget needs retain, or both retain_video and retain_audio; got {got}")
        else:
            _check("retain_video", self.retain_video)
            _check("retain_audio", self.retain_audio)

    @classmethod
    def from_options(
        cls, retain: float | None = None, retain_video: float | None = None, retain_audio: float | None = None
    ) -> Budget:
        """Build a budget from a user's options; `DEFAULT_RETAIN` applies if none is given.

        Args:
            retain: fraction of video and audio tokens kept together, in (0, 1].
            retain_video: fraction of video tokens kept; given together with ``retain_audio`` instead of ``retain``.
            retain_audio: fraction of audio tokens kept.

        Raises:
            BudgetError: a fraction is outside (0, 1], or the combination is ambiguous.
        """
        if retain is None and retain_video is None and retain_audio is None:
            retain = DEFAULT_RETAIN
        return cls(retain=retain, retain_video=retain_video, retain_audio=retain_audio)

    @property
    def keeps_all(self) -> bool:
        """Whether nothing may go."""
        return all(rate in (None, 1) for rate in (self.retain, self.retain_video, self.retain_audio))

    @property
    def words(self) -> str:
        """For reports: ``0.25``, or ``video 0.23, audio 0.5``."""
        if self.retain is not None:
            return f"{self.retain:g}"
        return f"video {self.retain_video:g}, audio {self.retain_audio:g}"

    def rates(self, n_video: int, n_audio: int) -> tuple[float, float]:
        """(kept share of video, kept share of audio) for one clip with so many tokens in its chunks.

        Split of an overall R: audio keeps ``a = min(1, R + 0.25)`` and video what is left of the sum,
        ``R - (a - R) n_audio / n_video``; where that is under R / 2 (few video tokens) both keep R. Without audio,
        video keeps R; without video there is no clip and nothing is cut, so both are R for form's sake.
        """
        video, audio = self._rates(torch.tensor([n_video]), torch.tensor([n_audio]))
        return float(video[0]), float(audio[0])

    def counts(self, shapes: ChunkShapes) -> Counts:
        """Kept tokens of every chunk, by the released rules.

        The second frame drops as many as the first, or none if their sizes differ. Audio stays whole where the chunk
        has at most one audio token, where no video token was kept, or where nothing of the audio would be kept.
        """
        clips = int(shapes.clip.max()) + 1 if len(shapes) else 0
        n_video = _sum_by(shapes.frame0 + shapes.frame1, shapes.clip, clips)
        n_audio = _sum_by(shapes.audio, shapes.clip, clips)
        video_rate, audio_rate = self._rates(n_video, n_audio)
        cut = _dropped(shapes.frame0, video_rate[shapes.clip])
        frame0 = shapes.frame0 - cut
        frame1 = torch.where(shapes.frame1 == shapes.frame0, shapes.frame1 - cut, shapes.frame1)
        audio = shapes.audio - _dropped(shapes.audio, audio_rate[shapes.clip])
        whole = (shapes.audio <= 1) | (frame0 + frame1 == 0) | (audio == 0)
        return Counts(frame0=frame0, frame1=frame1, audio=torch.where(whole, shapes.audio, audio))

    def _rates(self, n_video: Tensor, n_audio: Tensor) -> tuple[Tensor, Tensor]:
        """[clips] float64 each."""
        ones = torch.ones(len(n_video), dtype=torch.float64)
        if self.retain is None:
            return ones * (self.retain_video or 0.0), ones * (self.retain_audio or 0.0)
        audio = ones * min(1.0, self.retain + AUDIO_BONUS)
        video = self.retain - (audio - self.retain) * n_audio / n_video.clamp(min=1)
        few = (video < self.retain / 2) | (n_video == 0)
        return video.masked_fill(few, self.retain), audio.masked_fill(few, self.retain)


def from_rho(rho_video: float, rho_audio: float) -> Budget:
    """The budget of a paper's table, where rho is the fraction REMOVED, in [0, 1), taken to 12 decimals."""
    for name, rho in (("rho_video", rho_video), ("rho_audio", rho_audio)):
        if not (isinstance(rho, (int, float)) and 0 <= rho < 1):
            raise BudgetError(f"{name} is the fraction removed and must be in [0, 1), got {rho!r}")
    return Budget(retain_video=round(1 - rho_video, 12), retain_audio=round(1 - rho_audio, 12))


def kept_count(total: int, retain: float) -> int:
    """How many of ``total`` tokens of one segment stay at ``retain``."""
    return total - int(_dropped(torch.tensor(total), torch.tensor(retain, dtype=torch.float64)))


def _check(name: str, value: float | None) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or not 0 < value <= 1:
        raise BudgetError(f"{name} is the fraction kept and must be in (0, 1], got {value!r}")


def _dropped(n: Tensor, retain: Tensor) -> Tensor:
    """[C] int64: ``int(n * rho)``. Rounding to 12 decimals undoes the error of ``1 - retain``, so 0.23 means rho =
    0.77."""
    rho = torch.round((1 - retain) * 1e12) / 1e12
    return (n.double() * rho).to(torch.int64)


def _sum_by(values: Tensor, index: Tensor, size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.int64).index_add_(0, index, values)
