"""What a report says of a clip itself, whoever answers about it: what was seen, and what one would not expect."""

from __future__ import annotations

from typing import Any

from omnisift.media import Media
from omnisift.pipeline.report import Source

NANO_NOTICE = (
    "nano knows only its own world of coloured shapes and short sounds; on this clip its answer means nothing. "
    "Name a full-size model for real clips: --model Qwen/Qwen2.5-Omni-7B --selector FOLDER, or --compressor uniform"
)


def source_of(media: Media) -> Source:
    """What was seen of the file."""
    count, height, width = (0, 0, 0) if media.images is None else media.images.shape[:3]
    return Source(
        path=str(media.path),
        seconds=media.seconds,
        images=count,
        fps=media.fps,
        width=width,
        height=height,
        has_video=media.has_video,
        has_audio=media.has_audio,
        audio_seconds=media.audio_seconds,
    )


def notices_of(media: Media, *, is_nano: bool, compressing: bool) -> tuple[str, ...]:
    """The reader's warnings, and what model and compressor make of such a clip."""
    notices = list(media.warnings)
    if is_nano and not media.tags.get("comment", "").startswith("omnisift world"):
        notices.append(NANO_NOTICE)
    if compressing and not media.has_video:
        notices.append("sound without picture is read whole: the paper's method selects sound by what is seen")
    return tuple(notices)


def tokens_of(media: Media, processor: Any) -> tuple[int, int]:
    """(video, audio) tokens that a Qwen2.5-Omni processor makes of the clip, nothing dropped."""
    video, extractor = processor.video_processor, processor.feature_extractor
    pictures = 0
    if media.images is not None:
        count, height, width = media.images.shape[:3]
        side = video.patch_size * video.merge_size
        pictures = -(-count // video.temporal_patch_size) * (height // side) * (width // side)
    heard = 0 if media.waveform is None else audio_tokens(-(-len(media.waveform) // extractor.hop_length))
    return pictures, heard


def audio_tokens(mel: int) -> int:
    """Tokens that ``mel`` frames of the spectrogram become: a convolution and a pooling, each of stride two."""
    return max(0, ((mel - 1) // 2 + 1 - 2) // 2 + 1) if mel else 0
