"""How the processor of each family takes a clip: the size of a token, the images of a frame, and the place of audio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from omnisift.errors import UsageError
from omnisift.media import Media

_DEFAULT_TOKENS = 128, 768
"""(minimum, maximum) tokens of one frame, as in Transformers' processors of the Omni models and ``qwen-omni-utils``."""
_PAPER_TOKENS = 320
"""Maximum tokens of one frame in the paper's training and evaluation."""
PAPER_MAX_PIXELS = _PAPER_TOKENS * 28 * 28
"""The same in pixels, where a token is of 28 x 28."""


@dataclass(frozen=True)
class ClipFormat:
    """What the library must know of a processor to read a clip for it."""

    factor: int
    """Height and width of an image are multiples of it: pixels along one side of a token, as a rule."""
    images: int
    """Images of a frame of the token grid."""
    scaled_pixels: int | None = None
    """Largest image of a processor that scales all images itself, in pixels; None for others, which must not."""
    has_times: bool = False
    """Whether the processor writes the time of each frame into the prompt. Its sizes are then of a clip as a whole."""
    audio_apart: bool = False
    """Whether the audio of a clip is an item behind the video."""

    @classmethod
    def of(cls, processor: Any) -> ClipFormat:
        """Return the format of a processor of a supported family."""
        video = processor.video_processor
        # Gemma 4: a token is a square of patches, and an image is scaled to the largest size of so many tokens.
        if hasattr(video, "pooling_kernel_size"):
            token = (int(video.patch_size) * int(video.pooling_kernel_size)) ** 2
            return cls(2, 1, scaled_pixels=int(video.max_soft_tokens) * token, audio_apart=True)
        # LLaVA: an image is scaled to the size of the vision encoder, whatever its shape.
        if not hasattr(video, "patch_size"):
            return cls(2, 1, scaled_pixels=int(video.size["height"]) * int(video.size["width"]))
        side = int(video.patch_size) * int(video.merge_size)
        has_times = hasattr(processor, "_calculate_timestamps") or hasattr(processor, "replace_frame_token_id")
        return cls(side, int(video.temporal_patch_size), has_times=has_times)


def frame_seconds(processor: Any, clips: Sequence[Media]) -> list[float] | None:
    """`Attachment.frame_seconds` of a prompt with these clips: seconds of a frame of each video; None without video."""
    images = ClipFormat.of(processor).images
    return [images / clip.fps for clip in clips if clip.has_video and clip.fps] or None


def hears(processor: Any) -> bool:
    """Whether the model of this processor takes audio."""
    return getattr(processor, "feature_extractor", None) is not None


def size_options(processor: Any, max_pixels: int | None) -> dict[str, Any]:
    """The options of `omnisift.media.read` about sizes, for a processor and the ``max_pixels`` of a user."""
    lowest, highest = frame_limits(processor, max_pixels)
    # The largest size of a Qwen3-VL processor is of a clip as a whole.
    total = processor.video_processor.size["longest_edge"] if ClipFormat.of(processor).has_times else None
    return {
        "min_pixels": lowest,
        "max_pixels": highest,
        "total_pixels": total if max_pixels is None else None,
        "factor": frame_factor(processor),
    }


def frame_limits(processor: Any, max_pixels: int | None) -> tuple[int, int]:
    """``min_pixels`` and ``max_pixels`` of `omnisift.media.read` for a processor and the ``max_pixels`` of a user."""
    if max_pixels is not None and not isinstance(max_pixels, Real):
        raise UsageError(f"max_pixels must be a number, got {type(max_pixels).__name__}")
    lowest, highest = pixel_limits(processor)
    token, scaled = frame_factor(processor) ** 2, ClipFormat.of(processor).scaled_pixels
    if max_pixels is not None and scaled is not None:
        raise UsageError(f"max_pixels can't be set: this model scales images to {scaled} pixels itself; leave it out")
    if max_pixels is not None and max_pixels < token:
        raise UsageError(f"max_pixels must be at least {token}, one token of this model, got {max_pixels}")
    if scaled is None:
        highest = min(highest, _PAPER_TOKENS * token) if max_pixels is None else max_pixels
    return min(lowest, highest), highest


def frame_factor(processor: Any) -> int:
    """Pixels along one side of a token: height and width of a frame are multiples of it."""
    return ClipFormat.of(processor).factor


def pixel_limits(processor: Any) -> tuple[int, int]:
    """(minimum, maximum) pixels of a frame that the processor itself would resize to.

    Transformers ignores the size saved with the video processor of an Omni model: the processor replaces it by its own
    default, unless the tokenizer's settings name a size (nano's do).
    """
    layout = ClipFormat.of(processor)
    if layout.scaled_pixels is not None:
        return layout.factor**2, layout.scaled_pixels
    token = frame_factor(processor) ** 2
    size = processor.tokenizer.init_kwargs.get("size")
    if size is None and hears(processor):
        return _DEFAULT_TOKENS[0] * token, _DEFAULT_TOKENS[1] * token
    size = processor.video_processor.size if size is None else size
    # The sizes of Qwen3-VL are of a clip as a whole, so that a frame may have a single token.
    lowest = token if layout.has_times else int(size["shortest_edge"])
    return lowest, int(size["longest_edge"])
