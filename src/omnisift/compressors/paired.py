"""Video by one method and audio by another: the base classes of methods for video alone, and pairs for ablations."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from omnisift.budget import Budget, Counts
from omnisift.compressors.base import Compressor, full_precision
from omnisift.compressors.uniform import UniformCompressor
from omnisift.ops.groups import Scope, group
from omnisift.ops.selection_builder import join
from omnisift.tokens import Modality, Selection, TokenStream


class VideoCompressor(Compressor):
    """Base class of methods that select video tokens only; another method selects the audio tokens.

    By default audio is pooled into equal parts of time, the same for all such methods, so that they differ in video
    only.

    Args:
        budget: the fraction of tokens kept; a number is the overall ratio.
        audio: the method for audio tokens; None means `UniformCompressor` with pooling.
    """

    def __init__(self, budget: Budget | float, audio: Compressor | None = None) -> None:
        super().__init__(budget)
        self.audio = UniformCompressor(budget, mode="pool") if audio is None else audio
        self._default_audio = audio is None
        self.needs = type(self).needs | self.audio.needs

    @abstractmethod
    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """Select video tokens; the result for audio tokens is ignored. See `Compressor.select_video`."""

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Select video, then audio, which may depend on the kept video. See `Compressor.select`."""
        video = self.select_video(stream, counts)
        with full_precision(self.audio, stream):
            audio = self.audio.select_audio(stream, counts, video)
        return join(stream, video, audio)

    @property
    def reach(self) -> int | None:
        """The wider of the reaches of both methods. See `Compressor.reach`."""
        video, audio = self.video_reach, half_reach(self.audio)
        return None if video is None or audio is None else max(video, audio)

    @property
    def video_reach(self) -> int | None:
        """The reach of the method for video."""
        return None

    @property
    def label(self) -> str:
        """The method's label, with that of the audio method where it is not the default."""
        return self.video_label if self._default_audio else f"{self.video_label}+{self.audio.label}"

    @property
    def video_label(self) -> str:
        """The label of the method for video."""
        return self.name


class ScoredVideoCompressor(VideoCompressor):
    """A video method that is one function: a score for every token. Of equal scores the first token is kept."""

    scope: Scope = Scope.FRAME
    """Which video tokens are ranked together."""

    @abstractmethod
    def score(self, stream: TokenStream) -> Tensor:
        """Score the video tokens.

        Args:
            stream: the tokens of all rows of the batch.

        Returns:
            [L] float on the stream's device; the highest are kept. Values of all but video tokens in chunks are
            ignored.
        """

    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """Keep the highest scores of every group of the scope. See `Compressor.select_video`."""
        scores = self.score(stream)
        return Selection(group(stream, counts, self.scope, modality=Modality.VIDEO).highest(scores), scores)


class Paired(VideoCompressor):
    """The video tokens of one method and the audio tokens of another.

    Args:
        video: the method for video tokens, whose budget counts.
        audio: the method for audio tokens.
    """

    name: ClassVar[str] = "paired"

    def __init__(self, video: Compressor, audio: Compressor) -> None:
        super().__init__(video.budget, audio)
        self.video = video
        self.needs = video.needs | audio.needs

    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """Select video tokens by the first method. See `Compressor.select_video`."""
        with full_precision(self.video, stream):
            return self.video.select_video(stream, counts)

    @property
    def video_reach(self) -> int | None:
        """The reach of the first method."""
        return half_reach(self.video)

    @property
    def video_label(self) -> str:
        """The label of the first method."""
        return self.video.label


def half_reach(method: Compressor) -> int | None:
    """Return the reach of a method as half of a pair: None if it needs memory, which halves don't have."""
    return method.reach if type(method).select_next is Compressor.select_next else None
