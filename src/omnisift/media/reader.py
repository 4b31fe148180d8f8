"""`read`, the front door: check the arguments, read, and name the file in every error."""

from __future__ import annotations

import os

from omnisift.errors import Damaged, MediaError, TooBig, UsageError
from omnisift.media import container as door
from omnisift.media.image import smart_size
from omnisift.media.reading import Reading, Sampling
from omnisift.media.result import Media
from omnisift.media.sampling import QWEN_MAX_FRAMES, check_numbers

MAX_FRAMES = 256
"""Most images by default: two minutes at the default rate; longer films are sampled more thinly."""


def read(
    path: str | os.PathLike[str],
    *,
    fps: float = 2.0,
    max_frames: int | None = None,
    min_pixels: int = 128 * 784,
    max_pixels: int = 320 * 784,
    factor: int = 28,
    sampling: Sampling = "time",
    video: bool = True,
    audio: bool = True,
    require_video: bool = False,
    require_audio: bool = False,
    start: float = 0.0,
    end: float | None = None,
    max_seconds: float = 7200.0,
    strict: bool = False,
) -> Media:
    """Pictures and sound of a file, at the sizes and rates the model wants, on one clock.

    Args:
        path: a local file. Addresses are not fetched.
        fps: images per second.
        max_frames: most images; over it the rate is lowered for the whole film. None: 256, or 768 with "qwen".
        min_pixels, max_pixels, factor: size of one image, see `smart_size`.
        sampling: "time": image k is what is shown at ``k / fps``. "qwen": the frame numbers of ``qwen-omni-utils``.
        video, audio: whether to read picture and sound where there is one.
        require_video, require_audio: whether a file without it is an error.
        start, end: seconds; read only this part. The result's clock starts at ``start``.
        max_seconds: longest part that is read; more is left off, with ``capped`` and a warning.
        strict: any damaged packet is an error.

    Raises:
        MediaError: one of its kinds, with the file's name, the reason and what to do. UsageError: wrong arguments.
    """
    if sampling not in ("time", "qwen"):
        raise UsageError(f'sampling must be "time" or "qwen", got {sampling!r}')
    if not (video or audio):
        raise UsageError("video=False and audio=False leave nothing to read; allow one of them")
    if max_frames is None:
        max_frames = QWEN_MAX_FRAMES if sampling == "qwen" else MAX_FRAMES
    check_numbers(fps, max_frames, start, end, max_seconds)
    smart_size(factor, factor, factor=factor, min_pixels=min_pixels, max_pixels=max_pixels)  # are the limits possible?
    file = door.check_path(path)
    job = Reading(file, video, audio, start, end, max_seconds)
    name = door.label(file)
    try:
        job.look()
        job.plan(sampling, fps, max_frames)
        job.decode(factor, min_pixels, max_pixels)
        return job.result(require_video, require_audio, strict)
    except MediaError as error:
        raise type(error)(f"{name}: {error}") from None
    except MemoryError:
        raise TooBig(f"{name}: not enough memory to decode it; scale it down or read a part of it") from None
    except door.DECODE_ERRORS as error:
        raise Damaged(f"{name}: can't be decoded ({type(error).__name__}); get a whole copy of the file") from None
