"""Budgets: from a retention ratio or a number of tokens to integer counts per chunk, computed from shapes alone.

Serving engines need the counts before any embedding exists. Rounding follows the released code:
``kept = n - int(n * rho)`` with ``rho = round(1 - retain, 12)`` in float64 (``int(50 * 0.58)`` is 28, not 29). Both
frames of a chunk drop the number computed for the first one. A number of tokens is met exactly (`exact_counts`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnisift.chunks import ChunkShapes
from omnisift.errors import BudgetError
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

    def by_segment(self) -> Tensor:
        """Return the counts in the order of `omnisift.chunks.segment_of`, as [3C] int64 on the CPU."""
        return torch.stack([self.frame0, self.frame1, self.audio], dim=1).flatten()


@dataclass(frozen=True, repr=False)
class Budget:
    """The fraction, or the number, of video and audio tokens that is kept.

    An overall ratio is split between the modalities of each clip (see `rates`); a clip without audio keeps ``retain``
    of its video. Exactly one of ``retain``, ``tokens`` and the pair of ``retain_video`` and ``retain_audio`` is given.

    Args:
        retain: fraction of video and audio tokens kept together, in (0, 1].
        retain_video: fraction of the video tokens kept in every frame; given together with ``retain_audio``, instead
            of ``retain``.
        retain_audio: fraction of the audio tokens kept in every chunk.
        tokens: how many of the tokens inside chunks are kept of each clip, exactly; a clip that has no more keeps all.
        compress_audio: whether audio outside a video is compressed too: each such item is then a clip of its own, in
            chunks of two seconds. Otherwise it is kept in full.

    Raises:
        BudgetError: a fraction is outside (0, 1], ``tokens`` is no whole number above 0, ``compress_audio`` is no
            boolean, or the combination is incomplete or ambiguous.
    """

    retain: float | None = None
    retain_video: float | None = None
    retain_audio: float | None = None
    tokens: int | None = None
    compress_audio: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.compress_audio, bool):
            raise BudgetError(f"compress_audio is true or false, got {shown(self.compress_audio)}")
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
    ) -> Budget:
        """Build a budget from a user's options; `DEFAULT_RETAIN` applies if none is given.

        Args:
            retain: fraction of video and audio tokens kept together, in (0, 1].
            retain_video: fraction of video tokens kept; given together with ``retain_audio`` instead of ``retain``.
            retain_audio: fraction of audio tokens kept.
            tokens: video and audio tokens kept of each clip, instead of a fraction.
            compress_audio: whether audio outside a video is compressed too.

        Raises:
            BudgetError: a value is out of range, or the combination is ambiguous.
        """
        if (retain, retain_video, retain_audio, tokens) == (None, None, None, None):
            retain = DEFAULT_RETAIN
        return cls(retain, retain_video, retain_audio, tokens, compress_audio)

    @property
    def keeps_all(self) -> bool:
        """Whether every token of any clip is kept; with ``tokens`` that depends on the clip."""
        return self.tokens is None and all(
            rate in (None, 1) for rate in (self.retain, self.retain_video, self.retain_audio)
        )

    @property
    def words(self) -> str:
        """What is kept, for reports: ``0.25``, ``video 0.23, audio 0.5``, or ``4096 tokens``."""
        if self.tokens is not None:
            return f"{self.tokens} token{'s' if self.tokens > 1 else ''}"
        if self.retain is not None:
            return f"{self.retain:g}"
        return f"video {self.retain_video:g}, audio {self.retain_audio:g}"

    def __repr__(self) -> str:
        """Show what was given: ``Budget(retain=0.25)``."""
        given = {name: value for name, value in vars(self).items() if value not in (None, False)}
        return f"Budget({', '.join(f'{name}={value}' for name, value in given.items())})"

    def rates(self, n_video: int, n_audio: int) -> tuple[float, float]:
        """Split the budget between the modalities of one clip.

        An overall R keeps ``a = min(1, R + min(R, 0.25))`` of the audio and ``R - (a - R) n_audio / n_video`` of the
        video, so that R of all tokens is kept. Where the video would fall below R / 2 (few video tokens), both keep R:
        audio never keeps less than R. Without audio, video keeps R. With ``tokens``, R is their share of the clip's
        tokens.

        Args:
            n_video: video tokens of the clip.
            n_audio: audio tokens inside the clip's chunks.

        Returns:
            The kept fractions of video and of audio.
        """
        video, audio = self._rates(torch.tensor([n_video]), torch.tensor([n_audio]))
        return float(video[0]), float(audio[0])

    def counts(self, shapes: ChunkShapes) -> Counts:
        """Return the kept tokens of every chunk (the k of paper eq 5), by the rules of the released code.

        The second frame drops as many tokens as the first, or none if their sizes differ. The audio of a chunk is kept
        in full if it is at most one token, if no video token is kept (except in a clip without video), or if no audio
        token would be kept. A number of tokens follows `exact_counts` instead.

        Args:
            shapes: token counts of the chunks.

        Returns:
            The kept counts, each [C] int64 on the CPU.
        """
        # Each clip has its own split of an overall ratio.
        clips = int(shapes.clip.max()) + 1 if len(shapes) else 0
        n_video = _sum_by(shapes.frame0 + shapes.frame1, shapes.clip, clips)
        n_audio = _sum_by(shapes.audio, shapes.clip, clips)
        video_rate, audio_rate = self._rates(n_video, n_audio)
        if self.tokens is not None:
            return exact_counts(shapes, self.tokens, video_rate)
        # Video: the number dropped is computed from the first frame, for both frames.
        dropped = _dropped(shapes.frame0, video_rate[shapes.clip])
        frame0 = shapes.frame0 - dropped
        frame1 = torch.where(shapes.frame1 == shapes.frame0, shapes.frame1 - dropped, shapes.frame1)
        # Audio: rounded alike, except for the chunks that the released code does not prune.
        audio = shapes.audio - _dropped(shapes.audio, audio_rate[shapes.clip])
        unguided = (frame0 + frame1 == 0) & (n_video > 0)[shapes.clip]
        unpruned = (shapes.audio <= 1) | unguided | (audio == 0)
        return Counts(frame0=frame0, frame1=frame1, audio=torch.where(unpruned, shapes.audio, audio))

    def _rates(self, n_video: Tensor, n_audio: Tensor) -> tuple[Tensor, Tensor]:
        """Kept fractions of video and audio per clip, [clips] float64 each."""
        ones = torch.ones(len(n_video), dtype=torch.float64)
        if self.tokens is not None:
            retain = (self.tokens / (n_video + n_audio).clamp(min=1).double()).clamp(max=1)
        elif self.retain is not None:
            retain = ones * self.retain
        else:
            return ones * (self.retain_video or 0.0), ones * (self.retain_audio or 0.0)
        audio = (retain + retain.clamp(max=AUDIO_BONUS)).clamp(max=1)
        video = retain - (audio - retain) * n_audio / n_video.clamp(min=1)
        few = (video < retain / 2) | (n_video == 0)
        return torch.where(few, retain, video), torch.where(few, retain, audio)


def exact_counts(shapes: ChunkShapes, tokens: int, video_rate: Tensor) -> Counts:
    """Divide a number of tokens over the segments of each clip: over its frames, and over the audio of its chunks.

    Every segment keeps at least one token. The video keeps ``video_rate`` of its tokens, rounded, and its audio
    the rest; within both, `_even_shares` divides. Where there are fewer tokens than segments, a segment keeps one token
    or none, those that keep one are spread over time, and video and audio share the number by their segments. A larger
    number never takes a token from a segment, except where the split of `Budget.rates` changes to that for few video
    tokens.

    Args:
        shapes: token counts of the chunks.
        tokens: tokens kept of each clip; a clip that has no more keeps all.
        video_rate: [clips] float64 on the CPU: the share of the clip's video to keep.

    Returns:
        The kept counts, whose sum over each clip is ``tokens`` or all that it has.
    """
    kept = torch.stack([shapes.frame0, shapes.frame1, shapes.audio], dim=1)
    for clip in torch.unique(shapes.clip).tolist():
        rows = shapes.clip == clip
        size = kept[rows]
        video, audio = size[:, :2].flatten(), size[:, 2]
        n_video, n_audio = int(video.sum()), int(audio.sum())
        if n_video + n_audio <= tokens:
            continue
        least_video, least_audio = int((video > 0).sum()), int((audio > 0).sum())
        least = least_video + least_audio
        if tokens < least:
            # One token per segment does not fit: the video's share of the segments, rounded.
            share = (2 * tokens * least_video + least) // (2 * least)
        else:
            # The video's share, within what it has and what leaves the audio at least one token per chunk.
            share = int(float(video_rate[clip]) * n_video + 0.5)
            share = min(max(share, least_video, tokens - n_audio), n_video, tokens - least_audio)
        size[:, :2] = _even_shares(video, share).view(-1, 2)
        size[:, 2] = _even_shares(audio, tokens - share)
        kept[rows] = size
    return Counts(*kept.unbind(dim=1))


def _even_shares(size: Tensor, total: int) -> Tensor:
    """Divide ``total`` over segments in proportion to their sizes, [S] int64; first one for each that has a token.

    Largest remainders would take tokens from a segment as the total grows, and give the first segments more where all
    are equal. Instead tokens are given one by one, the next to the segment with the lowest (given + 1/2) / size
    (Webster's method), and of equals in an order that spreads over time.
    """
    # One row per token that may be given: its segment, and how many its segment has before it.
    segment = torch.repeat_interleave(torch.arange(len(size)), size)
    given = torch.arange(len(segment)) - (size.cumsum(0) - size)[segment]
    turn = torch.where(given == 0, 0.0, (given + 0.5) / size[segment])
    # The first `total` of them, ordered by turn and then by the segment's place in the spread order.
    by_place = torch.argsort(_spread(len(size))[segment], stable=True)
    taken = by_place[torch.argsort(turn[by_place], stable=True)[:total]]
    return torch.bincount(segment[taken], minlength=len(size))


def _spread(count: int) -> Tensor:
    """The place of each of ``count`` segments in an order of which every beginning is spread evenly, [count] int64."""
    # The number's binary digits in reverse: 0, 4, 2, 6, 1, 5, 3, 7 for eight segments.
    bits, number = max(count - 1, 0).bit_length(), torch.arange(count)
    digits = [((number >> bit) & 1) << (bits - 1 - bit) for bit in range(bits)]
    return torch.stack(digits).sum(dim=0) if digits else number


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


def _sum_by(values: Tensor, index: Tensor, size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.int64).index_add_(0, index, values)
