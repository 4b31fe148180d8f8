"""`read` and `read_lines`: check the arguments, read a file, and name the file in every error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from omnisift.errors import Damaged, MediaError, TooBig, UsageError
from omnisift.media.arguments import ReadArguments
from omnisift.media.container import DECODE_ERRORS
from omnisift.media.image import ImageCollector
from omnisift.media.lines import Line, within
from omnisift.media.reading import ClipReader
from omnisift.media.result import Media
from omnisift.media.sampling import MAX_SECONDS, Sampling, check_numbers
from omnisift.media.source import MediaFile, Source, check_source, describe_file
from omnisift.media.subtitles import TextKind
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
    text: TextKind = None,
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
        text: ``subtitles``: read the lines of the file beside the clip, else of its first track of text. None: no text.

    Returns:
        Images and waveform with their times.

    Raises:
        MediaError: the file can't be read; the subclass gives the kind of reason.
        UsageError: arguments are wrong, or select no part of the file.
    """
    arguments = ReadArguments(
        fps=fps,
        max_frames=max_frames,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        total_pixels=total_pixels,
        factor=factor,
        sampling=sampling,
        video=video,
        audio=audio,
        require_video=require_video,
        require_audio=require_audio,
        start=start,
        end=end,
        max_seconds=max_seconds,
        max_decoded_pixels=max_decoded_pixels,
        read_timeout=read_timeout,
        strict=strict,
        text=text,
    )
    arguments.check()
    budget = arguments.budget()
    file = check_clip(path)
    with name_in_errors(file), file.opened(budget):
        return read_planned(arguments.plan(file, budget, ImageCollector), arguments, file, budget)


def read_lines(
    path: MediaFile, *, seconds: float | None = None, start: float = 0.0, read_timeout: float = READ_TIMEOUT
) -> tuple[tuple[Line, ...], tuple[str, ...]]:
    """Read the subtitles of a clip alone: what ``read(path, text="subtitles")`` returns as lines, without decoding.

    Args:
        path: as in `read`.
        seconds: length of the part that is read; None means two hours, as in `read`.
        start: seconds; the clock of the lines starts here.
        read_timeout: seconds of wall time; more are a `MediaTimeout`.

    Returns:
        The lines in order of their start, and sentences about what was unusual.

    Raises:
        MediaError: the file or its subtitles can't be read; the subclass gives the kind of reason.
        UsageError: arguments are wrong.
    """
    length = MAX_SECONDS if seconds is None else seconds
    check_numbers(1.0, 2, start, None, length)
    check_budget(MAX_DECODED_PIXELS, read_timeout)
    budget = WorkBudget(seconds=read_timeout)
    file = check_clip(path)
    with name_in_errors(file), file.opened(budget):
        reader = ClipReader(file, video=True, audio=True, start=start, end=None, max_seconds=length, budget=budget)
        reader.inspect()
        # What inspecting found unusual concerns images and audio.
        reader.warnings.clear()
        reader.read_text()
        assert reader.clock is not None
        lines, behind = within(reader.lines, reader.clock.latest_end)
    return lines, (*reader.warnings, *behind)


def read_planned(reader: ClipReader, arguments: ReadArguments, file: Source, budget: WorkBudget) -> Media:
    """Decode a file whose images are planned.

    Args:
        reader: from ``arguments.plan`` with `ImageCollector`.
        arguments: those of `read`.
        file: as `check_source` returned it, opened.
        budget: what reading the file may cost.

    Raises:
        MediaError: as in `read`.
    """
    reader.decode()
    if reader.contradicted:
        # The decoder returned frames in another order than their times say: its order is right.
        reader = arguments.plan(file, budget, ImageCollector, ask_decoder=True)
        reader.decode()
    return reader.result(arguments.require_video, arguments.require_audio, arguments.strict)


def check_clip(path: MediaFile) -> Source:
    """Check that a clip is a file or file object that can be read; raises the errors of `check_source`."""
    if isinstance(path, Media):
        raise UsageError("the clip is a Media, which is decoded already; give it to Pipeline.ask or omnisift.inputs")
    return check_source(path)


@contextmanager
def name_in_errors(file: Source) -> Iterator[None]:
    """Put the file's name in front of media errors, and turn those of the decoder into media errors."""
    name = describe_file(file)
    try:
        yield
    except MediaError as error:
        raise type(error)(f"{name}: {error}") from None
    except MemoryError:
        raise TooBig(f"{name}: not enough memory to decode it; scale it down or read a part of it") from None
    except DECODE_ERRORS as error:
        raise Damaged(f"{name}: can't be decoded ({type(error).__name__}); get a complete copy of the file") from None
