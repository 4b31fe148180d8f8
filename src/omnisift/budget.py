"""Budgets: from a retention ratio or a number of tokens to integer counts per chunk, computed from shapes alone.

Serving engines need the counts before any embedding exists. Rounding follows the released code:
``kept = n - int(n * rho)`` with ``rho = round(1 - retain, 12)`` in float64 (``int(50 * 0.58)`` is 28, not 29). Both
frames of a chunk drop the number computed for the first one. A number of tokens is met exactly, by
`omnisift.exact_counts`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnisift.chunks import ChunkShapes
from omnisift.errors import BudgetError
from omnisift.exact_counts import exact_counts, exact_text, sum_by
from omnisift.utils.parsing import shown

DEFAULT_RETAIN = 0.25
"""The overall ratio if a caller gives none; every entry point takes it from `Budget.from_options`."""
MOST_TOKENS = 2**53
"""The largest number of tokens a budget takes: float64 holds every integer up to it."""
AUDIO_BONUS = 0.25
"""An overall ratio R keeps R + min(R, 0.25) of the audio: as in the paper's table 6 at 35 % and 25 %, and below that
twice R, the best split of smaller totals on validation clips (docs/results.md)."""


@dataclass(frozen=True)
class Counts:
    """Kept tokens of each chunk. Every compressor keeps exactly these, or their sum over its scope."""

    frame0: Tensor
    """[C] int64 on the CPU: of the first frame."""
    frame1: Tensor
    """[C] int64 on the CPU: of the second frame."""
    audio: Tensor
    """[C] int64 on the CPU: of the audio."""
    text: Tensor = None  # type: ignore[assignment]  # zeros
    """[C] int64 on the CPU: of the subtitles; 0 everywhere if it is not given."""

    def __post_init__(self) -> None:
        if self.text is None:
            object.__setattr__(self, "text", torch.zeros_like(self.frame0))

    def by_segment(self) -> Tensor:
        """Return the counts in the order of `omnisift.chunks.segment_of`, without text, as [3C] int64 on the CPU."""
        return torch.stack([self.frame0, self.frame1, self.audio], dim=1).flatten()


@dataclass(frozen=True, repr=False)
class Budget:
    """The fraction, or the number, of the tokens of clips that is kept: of video, audio and subtitles.

    An overall ratio is split between the modalities of each clip (see `rates`); a clip without audio keeps ``retain``
    of its video. Exactly one of ``retain``, ``tokens`` and the pair of ``retain_video`` and ``retain_audio`` is given;
    ``retain_text`` goes with any of them.

    Args:
        retain: fraction of video, audio and subtitle tokens kept together, in (0, 1].
        retain_video: fraction of the video tokens kept in every frame; given together with ``retain_audio``, instead
            of ``retain``.
        retain_audio: fraction of the audio tokens kept in every chunk.
        tokens: how many of the tokens inside chunks are kept of each clip, exactly; a clip that has no more keeps all.
        compress_audio: whether audio outside a video is compressed too: each such item is then a clip of its own, in
            chunks of two seconds. Otherwise it is kept in full.
        retain_text: fraction of the subtitle tokens kept, in (0, 1]; None means all. Of an overall ratio or a number
            of tokens, they get half at most, unless video and audio are kept in full. The rest is for video and audio.

    Raises:
        BudgetError: a fraction is outside (0, 1], ``tokens`` is no whole number above 0, ``compress_audio`` is no
            boolean, or the combination is incomplete or ambiguous.
    """

    retain: float | None = None
    retain_video: float | None = None
    retain_audio: float | None = None
    tokens: int | None = None
    compress_audio: bool = False
    retain_text: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.compress_audio, bool):
            raise BudgetError(f"compress_audio is true or false, got {shown(self.compress_audio)}")
        if self.retain_text is not None:
            _check("retain_text", self.retain_text)
        by_modality = (self.retain_video, self.retain_audio)
        if self.tokens is not None:
            if (self.retain, *by_modality) != (None, None, None):
                raise BudgetError(
                    "tokens was given with retain, retain_video or retain_audio: give a number of tokens or fractions"
                )
            object.__setattr__(self, "tokens", _whole(self.tokens))
        elif self.retain is not None:
            if by_modality != (None, None):
                raise BudgetError(
                    "retain was given with retain_video or retain_audio: give one overall ratio or the two"
                )
            _check("retain", self.retain)
        elif None in by_modality:
            got = f"retain_video={self.retain_video}, retain_audio={self.retain_audio}"
            raise BudgetError(f"a budget needs retain, or both retain_video and retain_audio, or tokens; got {got}")
        else:
            _check("retain_video", self.retain_video)
            _check("retain_audio", self.retain_audio)

    @classmethod
    def of(cls, budget: Budget | float) -> Budget:
        """Return ``budget`` itself, or ``Budget(retain=budget)`` for a number.

        Raises:
            BudgetError: the number is outside (0, 1].
        """
        return budget if isinstance(budget, Budget) else cls(retain=budget)

    @classmethod
    def from_options(
        cls,
        retain: float | None = None,
        retain_video: float | None = None,
        retain_audio: float | None = None,
        tokens: int | None = None,
        compress_audio: bool = False,
        retain_text: float | None = None,
    ) -> Budget:
        """Build a budget from a user's options; `DEFAULT_RETAIN` applies if none of the first four is given.

        Args:
            retain: fraction of video, audio and subtitle tokens kept together, in (0, 1].
            retain_video: fraction of video tokens kept; given together with ``retain_audio`` instead of ``retain``.
            retain_audio: fraction of audio tokens kept.
            tokens: video, audio and subtitle tokens kept of each clip, instead of a fraction.
            compress_audio: whether audio outside a video is compressed too.
            retain_text: fraction of subtitle tokens kept; None means all.

        Raises:
            BudgetError: a value is out of range, or the combination is ambiguous.
        """
        if (retain, retain_video, retain_audio, tokens) == (None, None, None, None):
            retain = DEFAULT_RETAIN
        return cls(retain, retain_video, retain_audio, tokens, compress_audio, retain_text)

    @property
    def keeps_all(self) -> bool:
        """Whether every token of any clip is kept; with ``tokens`` that depends on the clip."""
        return self.tokens is None and all(
            rate in (None, 1) for rate in (self.retain, self.retain_video, self.retain_audio, self.retain_text)
        )

    @property
    def words(self) -> str:
        """What is kept, for reports: ``0.25``, ``video 0.23, audio 0.5``, or ``4096 tokens, text 0.5``."""
        text = "" if self.retain_text is None else f", text {self.retain_text:g}"
        if self.tokens is not None:
            return f"{self.tokens} token{'s' if self.tokens > 1 else ''}{text}"
        if self.retain is not None:
            return f"{self.retain:g}{text}"
        return f"video {self.retain_video:g}, audio {self.retain_audio:g}{text}"

    def __repr__(self) -> str:
        """Show what was given: ``Budget(retain=0.25)``."""
        given = {name: value for name, value in vars(self).items() if value not in (None, False)}
        return f"Budget({', '.join(f'{name}={value}' for name, value in given.items())})"

    def rates(self, n_video: int, n_audio: int, n_text: int = 0) -> tuple[float, float]:
        """Split the budget between video and audio of one clip.

        An overall R keeps ``a = min(1, R + min(R, 0.25))`` of the audio and ``R - (a - R) n_audio / n_video`` of the
        video, so that R of all tokens is kept. Where the video would fall below R / 2 (few video tokens), both keep R:
        audio never keeps less than R. Without audio, video keeps R. With ``tokens``, R is their share of the clip's
        tokens. Where the clip has subtitles, R is what these leave (`text_rate`) over the video and audio tokens.

        Args:
            n_video: video tokens of the clip.
            n_audio: audio tokens inside the clip's chunks.
            n_text: subtitle tokens of the clip.

        Returns:
            The kept fractions of video and of audio.
        """
        text = self._kept_text(torch.tensor([n_video + n_audio]), torch.tensor([n_text]))
        video, audio = self._rates(torch.tensor([n_video]), torch.tensor([n_audio]), torch.tensor([n_text]), text)
        return float(video[0]), float(audio[0])

    def text_rate(self, n_media: int, n_text: int) -> float:
        """The kept fraction of the subtitles of one clip, in (0, 1]; 1 without subtitles.

        It is ``retain_text``. Of an overall ratio or a number of tokens, the subtitles get half of the clip's total at
        most, or what video and audio leave of it where they are kept in full.

        Args:
            n_media: video and audio tokens inside the clip's chunks.
            n_text: subtitle tokens of the clip.
        """
        return float(self._kept_text(torch.tensor([n_media]), torch.tensor([n_text]))[0]) / n_text if n_text else 1.0

    def counts(self, shapes: ChunkShapes) -> Counts:
        """Return the kept tokens of every chunk (the k of paper eq 5), by the rules of the released code.

        The second frame drops as many tokens as the first, or none if their sizes differ. The audio of a chunk is kept
        in full if it is at most one token, if no video token is kept (except in a clip without video), or if no audio
        token would be kept. The subtitles of a chunk are rounded up, so that one stays at least. A number of tokens
        follows `omnisift.exact_counts` instead.

        Args:
            shapes: token counts of the chunks.

        Returns:
            The kept counts, each [C] int64 on the CPU.
        """
        # Each clip has its own split of an overall ratio.
        clips = int(shapes.clip.max()) + 1 if len(shapes) else 0
        n_video = sum_by(shapes.frame0 + shapes.frame1, shapes.clip, clips)
        n_audio = sum_by(shapes.audio, shapes.clip, clips)
        n_text = sum_by(shapes.text, shapes.clip, clips)
        if self.tokens is not None:
            kept_text = exact_text(shapes, self.tokens, self.retain_text or 1.0)
            video_rate, _ = self._rates(n_video, n_audio, n_text, kept_text.double())
            return Counts(*exact_counts(shapes, self.tokens, video_rate, kept_text).unbind(dim=1))
        kept_text = self._kept_text(n_video + n_audio, n_text)
        video_rate, audio_rate = self._rates(n_video, n_audio, n_text, kept_text)
        # Video: the number dropped is computed from the first frame, for both frames.
        dropped = _dropped(shapes.frame0, video_rate[shapes.clip])
        frame0 = shapes.frame0 - dropped
        frame1 = torch.where(shapes.frame1 == shapes.frame0, shapes.frame1 - dropped, shapes.frame1)
        # Audio: rounded alike, except for the chunks that the released code does not prune.
        audio = shapes.audio - _dropped(shapes.audio, audio_rate[shapes.clip])
        unguided = (frame0 + frame1 == 0) & (n_video > 0)[shapes.clip]
        unpruned = (shapes.audio <= 1) | unguided | (audio == 0)
        # Text: rounded alike.
        text_rate = kept_text / n_text.clamp(min=1)
        text = shapes.text - _dropped(shapes.text, text_rate[shapes.clip])
        return Counts(frame0=frame0, frame1=frame1, audio=torch.where(unpruned, shapes.audio, audio), text=text)

    def _kept_text(self, n_media: Tensor, n_text: Tensor) -> Tensor:
        """Kept subtitle tokens of clips before rounding, [clips] float64, by `text_rate`."""
        wanted = n_text * torch.tensor(self.retain_text or 1.0, dtype=torch.float64)
        if self.tokens is None and self.retain is None:
            return wanted
        total = (n_media + n_text).double() * (self.retain or 1.0)
        if self.tokens is not None:
            total = total.clamp(max=self.tokens)
            wanted = torch.maximum(wanted, total - n_media)
        return torch.minimum(wanted, torch.maximum(total / 2, total - n_media))

    def _rates(self, n_video: Tensor, n_audio: Tensor, n_text: Tensor, kept_text: Tensor) -> tuple[Tensor, Tensor]:
        """Kept fractions of video and audio per clip, [clips] float64 each; ``kept_text`` is float64."""
        ones = torch.ones(len(n_video), dtype=torch.float64)
        n_media = (n_video + n_audio).clamp(min=1).double()
        if self.tokens is not None:
            retain = ((self.tokens - kept_text) / n_media).clamp(max=1)
        elif self.retain is not None:
            left = (self.retain * (n_video + n_audio + n_text) - kept_text) / n_media
            retain = torch.where(n_text > 0, left.clamp(max=1), ones * self.retain)
        else:
            return ones * (self.retain_video or 0.0), ones * (self.retain_audio or 0.0)
        audio = (retain + retain.clamp(max=AUDIO_BONUS)).clamp(max=1)
        video = retain - (audio - retain) * n_audio / n_video.clamp(min=1)
        # Where both are equal but for rounding, the split must not depend on the ratio.
        few = (video < retain / 2 - 1e-12) | (n_video == 0)
        return torch.where(few, retain, video), torch.where(few, retain, audio)


def from_rho(rho_video: float, rho_audio: float) -> Budget:
    """Build the budget of a paper's table, where rho is the fraction that is removed.

    Args:
        rho_video: fraction of video tokens removed, in [0, 1).
        rho_audio: fraction of audio tokens removed, in [0, 1).

    Returns:
        ``Budget(retain_video=1 - rho_video, retain_audio=1 - rho_audio)``, rounded to 12 decimals.

    Raises:
        BudgetError: a fraction is outside [0, 1).
    """
    for name, rho in (("rho_video", rho_video), ("rho_audio", rho_audio)):
        if not (isinstance(rho, (int, float)) and 0 <= rho < 1):
            raise BudgetError(f"{name} is the fraction removed and must be in [0, 1), got {rho!r}")
    return Budget(retain_video=round(1 - rho_video, 12), retain_audio=round(1 - rho_audio, 12))


def kept_count(total: int, retain: float) -> int:
    """Return how many of the ``total`` tokens of one segment are kept at ``retain``."""
    return total - int(_dropped(torch.tensor(total), torch.tensor(retain, dtype=torch.float64)))


def _check(name: str, value: float | None) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise BudgetError(f"{name} is the fraction kept and must be in (0, 1], got {shown(value)}{_meant(value)}")


def _whole(value: Any) -> int:
    """``tokens`` as an integer; a float of a whole number is one."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and 1 <= value <= MOST_TOKENS and value == int(value):
        return int(value)
    raise BudgetError(
        f"tokens is the number of tokens kept of each clip, a whole number from 1 to 2**53; got {shown(value)}"
    )


def _meant(value: object) -> str:
    """The end of the message where a percentage or a quoted number was given; else empty."""
    try:
        text = str(value).strip()
        number = float(text.removesuffix("%"))
    except ValueError:  # also for an integer of more digits than Python prints
        return ""
    is_percentage = text.endswith("%") or number >= 2  # 1.5 is more likely a slip than 1.5 percent
    fraction = number / 100 if is_percentage else number
    return f"; did you mean {fraction:g}?" if 0 < fraction < 1 else ""


def _dropped(n: Tensor, retain: Tensor) -> Tensor:
    """``int(n * rho)`` as int64. Rounding to 12 decimals undoes the error of ``1 - retain``: 0.23 means rho = 0.77."""
    rho = torch.round((1 - retain) * 1e12) / 1e12
    return (n.double() * rho).to(torch.int64)
