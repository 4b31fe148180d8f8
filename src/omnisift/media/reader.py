"""`read`: check the arguments, read a file, and name the file in every error."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real

from omnisift.errors import Damaged, MediaError, TooBig, UsageError
from omnisift.media.container import DECODE_ERRORS
from omnisift.media.image import smart_size
from omnisift.media.reading import ClipReader
from omnisift.media.result import Media
from omnisift.media.sampling import MAX_SECONDS, Sampling, check_numbers, check_sampling
from omnisift.media.source import MediaFile, check_source, describe_file
from omnisift.media.work import MAX_DECODED_PIXELS, READ_TIMEOUT, WorkBudget, check_budget


def read(
    path: MediaFile,
    *,
    fps: float = 2.0,
    max_frames: int | None = None,
    min_pixels: int = 128 * 784,
    max_pixels: int = 320 * 784,
    total_pixels: int | None = None,
    factor: int = 28,
    sampling: Sampling = "time",
    video: bool = True,
    audio: bool = True,
    require_video: bool = False,
    require_audio: bool = False,
    start: float = 0.0,
    end: float | None = None,
    max_seconds: float = MAX_SECONDS,
    max_decoded_pixels: int = MAX_DECODED_PIXELS,
    read_timeout: float = READ_TIMEOUT,
    strict: bool = False,
) -> Media:
    """Read images and audio of a file on one clock, at the sizes and rates that the model takes.

    Args:
        path: a local file; or a file object that was opened for reading bytes and can seek, which is read from its
            beginning, gets its position back and stays open. URLs are not fetched.
        fps: images sampled per second.
        max_frames: maximum number of images; a longer video is sampled at a lower rate. None means 256, or 768 with
            ``sampling="qwen"``.
        min_pixels: smallest area of one image, see `smart_size`.
        max_pixels: largest area of one image.
        total_pixels: largest area of all images together, which lowers ``max_pixels`` where there are many; None means
            no limit.
        factor: both sides of an image are multiples of this.
        sampling: ``time``: image k is the one shown at ``k / fps``. ``qwen``: the frame numbers of
            ``qwen-omni-utils``.
        video: whether to read the video track.
        audio: whether to read the audio track.
        require_video: whether a file without video is an error.
        require_audio: whether a file without audio is an error.
        start: seconds; the result's clock starts here.
        end: seconds; nothing is read from here on.
        max_seconds: longest part that is read; the rest is left out, with ``capped`` and a warning.
        max_decoded_pixels: pixels of all frames that may be decoded for the images together; more are `TooBig`.
        read_timeout: seconds of wall time; more are a `MediaTimeout`.
        strict: whether any damaged packet is an error.

    Returns:
        Images and waveform with their times.

    Raises:
        MediaError: the file can't be read; the subclass gives the kind of reason.
        UsageError: arguments are wrong, or select no part of the file.
    """
    max_frames = check_sampling(sampling, max_frames)
    if not (video or audio):
        raise UsageError("video=False and audio=False leave nothing to read; allow one of them")
    check_numbers(fps, max_frames, start, end, max_seconds)
    check_budget(max_decoded_pixels, read_timeout)
    budget = WorkBudget(max_decoded_pixels, read_timeout)
    smart_size(factor, factor, factor=factor, min_pixels=min_pixels, max_pixels=max_pixels)
    if total_pixels is not None and not (isinstance(total_pixels, Real) and 1 <= total_pixels < math.inf):
        raise UsageError(f"total_pixels must be a number of at least 1 or None, got {total_pixels!r}")
    if isinstance(path, Media):
        raise UsageError("the clip is a Media, which is decoded already; give it to Pipeline.ask or omnisift.inputs")
    file = check_source(path)
    with _name_in_errors(describe_file(file)), file.opened(budget):
        reader = ClipReader(file, video, audio, start, end, max_seconds, budget)
        reader.inspect()
        reader.plan_images(sampling, fps, max_frames)
        reader.decode(factor, min_pixels, max_pixels, total_pixels)
        if reader.contradicted:
            # The decoder returned frames in another order than their times say: its order is right.
            reader = ClipReader(file, video, audio, start, end, max_seconds, budget)
            reader.inspect(ask_decoder=True)
            reader.plan_images(sampling, fps, max_frames)
            reader.decode(factor, min_pixels, max_pixels, total_pixels)
        return reader.result(require_video, require_audio, strict)


@contextmanager
def _name_in_errors(name: str) -> Iterator[None]:
    """Put the file's name in front of media errors, and turn those of the decoder into media errors."""
    try:
        yield
    except MediaError as error:
        raise type(error)(f"{name}: {error}") from None
    except MemoryError:
        raise TooBig(f"{name}: not enough memory to decode it; scale it down or read a part of it") from None
    except DECODE_ERRORS as error:
        raise Damaged(f"{name}: can't be decoded ({type(error).__name__}); get a complete copy of the file") from None
