"""`FileFeed`: a file as a stream, whose images and samples are those of `omnisift.media.read`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from omnisift.media.arguments import ReadArguments
from omnisift.media.live_order import StreamOrder
from omnisift.media.live_warnings import WarningLog
from omnisift.media.pieces import Piece
from omnisift.media.source import MediaFile
from omnisift.media.units import SAMPLE_RATE
from omnisift.media.windows import ClipWindows, Samples

LONGEST = 360_000.0
"""Seconds of a file that are played, four days: a bound on the list of its moments."""
MAX_IMAGES = 1 << 40
_NO_LIMIT = 1 << 62


def file_arguments(
    fps: float, video: bool, audio: bool, factor: int, min_pixels: int, max_pixels: int
) -> ReadArguments:
    """Arguments of `omnisift.media.read` without limits on length, images, work and time; all are those of `read`."""
    return ReadArguments(
        fps=fps,
        max_frames=MAX_IMAGES,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        total_pixels=None,
        factor=factor,
        sampling="time",
        video=video,
        audio=audio,
        require_video=False,
        require_audio=False,
        start=0.0,
        end=None,
        max_seconds=LONGEST,
        max_decoded_pixels=_NO_LIMIT,
        read_timeout=math.inf,
        strict=False,
    )


class FileFeed:
    """The pieces of a file, decoded when they are asked for: two passes, one for each track, and no part is kept.

    Opening reads the headers of all packets and decodes the audio once, because only then its length is known.
    """

    is_live = False

    def __init__(
        self,
        path: MediaFile,
        arguments: ReadArguments,
        log: WarningLog,
        on_samples: Callable[[Samples], object] | None = None,
    ) -> None:
        """Open a file.

        Args:
            path: as `omnisift.media.read` takes it.
            arguments: from `file_arguments`.
            log: receives the warnings.
            on_samples: called with all of the waveform, in parts.

        Raises:
            MediaError: the file can't be read.
            UsageError: arguments are wrong.
            WindowsUnavailable: the file has to be decoded in one pass.
        """
        self._windows = ClipWindows(path, arguments)
        self._log = log
        try:
            self._windows.open(on_samples)
        except BaseException:
            self._windows.close()
            raise
        media = self._windows.media
        self.has_video, self.has_audio = media.has_video, media.has_audio
        self.seconds: float | None = media.seconds
        self.tags = media.tags
        self.order = StreamOrder(arguments.fps, media.has_video, media.has_audio)

    def pieces(self) -> Iterator[Piece]:
        """Yield the pieces in order of time.

        Raises:
            MediaError: the file can't be read.
            WindowsUnavailable: the rest of the file has to be decoded in one pass.
        """
        media, order = self._windows.media, self.order
        images = 0 if media.images is None else len(media.images)
        samples = 0 if media.waveform is None else len(media.waveform)
        while order.image < images or order.sample < samples:
            order.has_video, order.has_audio = order.image < images, order.sample < samples
            if order.is_image_next:
                piece = Piece(order.image_time, image=self._windows.images(order.image + 1)[0])
                order.image += 1
            else:
                end = min(order.samples_end, samples)
                piece = Piece(order.sample / SAMPLE_RATE, samples=self._windows.samples(end))
                order.sample = end
            yield piece
        for text in self._windows.finish().warnings:
            self._log.add("clip", text)

    def stop(self) -> None:
        """Do nothing: a file answers at once."""

    def close(self) -> None:
        """Close the file."""
        self._windows.close()
