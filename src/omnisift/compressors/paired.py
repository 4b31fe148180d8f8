"""Picture by one method, sound by another: how video-only methods get their sound, and how ablations are made."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from omnisift.budget import Budget, Counts
from omnisift.compressors.base import Compressor
from omnisift.compressors.groups import Scope, group
from omnisift.compressors.uniform import UniformCompressor
from omnisift.tokens import Modality, Selection, TokenStream


class VideoCompressor(Compressor):
    """A method for the picture alone. For the sound it is paired with ``audio``, by default pooling into equal parts of
    time: the same rule for all such methods, so that they differ in the picture only."""

    def __init__(self, budget: Budget | float, audio: Compressor | None = None) -> None:
        super().__init__(budget)
        self.audio = UniformCompressor(budget, mode="pool") if audio is None else audio
        self._own_rule = audio is None
        self.needs = type(self).needs | self.audio.needs

    @abstractmethod
    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """Decide on the picture. What the result says of the sound is ignored."""

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """First the picture, then the sound, which may look at what was kept of the picture."""
        picture = self.select_video(stream, counts)
        return join(stream, picture, self.audio.select_audio(stream, counts, picture))

    @property
    def label(self) -> str:
        """The method's name, and the audio rule's where it is not the default."""
        return self.video_label if self._own_rule else f"{self.video_label}+{self.audio.label}"

    @property
    def video_label(self) -> str:
        """What a table calls the picture's half."""
        return self.name


class ScoredVideoCompressor(VideoCompressor):
    """A method for the picture that is one function: a score for every token. Ties keep the lowest index."""

    scope: Scope = Scope.FRAME
    """Which video tokens are ranked together."""

    @abstractmethod
    def score(self, stream: TokenStream) -> Tensor:
        """[L] float on the stream's device, higher stays; NaN (or anything) for all but video tokens of chunks."""

    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """Rank the scores inside every group of the scope."""
        scores = self.score(stream)
        return Selection(group(stream, counts, self.scope, modality=Modality.VIDEO).highest(scores), scores)


class Paired(VideoCompressor):
    """The picture's half of one method and the sound's half of another."""

    name: ClassVar[str] = "paired"

    def __init__(self, video: Compressor, audio: Compressor) -> None:
        super().__init__(video.budget, audio)
        self.video = video
        self.needs = video.needs | audio.needs

    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """The first method's."""
        return self.video.select_video(stream, counts)

    @property
    def video_label(self) -> str:
        """The first method's."""
        return self.video.label


def join(stream: TokenStream, picture: Selection, sound: Selection) -> Selection:
    """``picture`` on video tokens, ``sound`` on audio tokens, everything else stays."""
    device = stream.embeds.device
    modality = torch.where(stream.chunk >= 0, stream.modality, int(Modality.TEXT)).to(device)
    audio, video = modality == Modality.AUDIO, modality == Modality.VIDEO
    keep = torch.where(audio, sound.keep, picture.keep | ~video)
    scores = _joined_scores(audio, picture.scores, sound.scores)
    embeds = None
    if picture.embeds is not None or sound.embeds is not None:
        embeds = stream.embeds[keep]
        for part, mine in ((picture, video), (sound, audio)):
            if part.embeds is not None:
                rows = torch.cumsum(part.keep, dim=0) - 1
                embeds[mine[keep]] = part.embeds[rows[mine & keep]].to(embeds.dtype)
    gate = None
    if sound.gate is not None:
        gate = torch.where(audio, sound.gate, torch.ones_like(sound.gate))
    # Only sound has an estimator, and it leaves picture and text as they are.
    return Selection(keep, scores, gate, embeds, bias=sound.bias, log_prob=sound.log_prob)


def _joined_scores(audio: Tensor, picture: Tensor | None, sound: Tensor | None) -> Tensor | None:
    if picture is None and sound is None:
        return None
    missing = torch.full(audio.shape, torch.nan, device=audio.device)
    picture, sound = (missing if scores is None else scores.float() for scores in (picture, sound))
    return torch.where(audio, sound, picture)
