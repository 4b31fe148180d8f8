"""Video by one method and audio by another, for ablations."""

from __future__ import annotations

from typing import ClassVar

from omnisift.budget import Counts
from omnisift.compressors.base import Compressor, VideoCompressor
from omnisift.tokens import Selection, TokenStream


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
        return self.video.select_video(stream, counts)

    @property
    def video_label(self) -> str:
        """The label of the first method."""
        return self.video.label
