"""What a report says about the clip: what was read, how many tokens it is, and what limits the answer."""

from __future__ import annotations

from typing import Any

from omnisift.media import Media
from omnisift.pipeline.report import Source

NANO_NOTICE = (
    "nano only understands generated clips of coloured shapes and short sounds; its answer about this clip means "
    "nothing. For real clips name a full-size model: --model Qwen/Qwen2.5-Omni-7B with --selector FOLDER or "
    "--compressor v_cast"
)


def source_of(media: Media) -> Source:
    """What was read of the file."""
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
    """What limits an answer about this clip, the most important first.

    Args:
        media: the clip.
        is_nano: whether the bundled model answers.
        compressing: whether a compressor is attached.
    """
    notices = []
    if is_nano and not media.tags.get("comment", "").startswith("omnisift world"):
        notices.append(NANO_NOTICE)
    notices += media.warnings
    if compressing and not media.has_video:
        notices.append("audio without video is not compressed: audio tokens are selected by the video they belong to")
    return tuple(notices)


def count_tokens(media: Media, processor: Any) -> tuple[int, int]:
    """(video, audio) tokens that a Qwen2.5-Omni processor makes of the clip, before compression."""
    video, extractor = processor.video_processor, processor.feature_extractor
    n_video = 0
    if media.images is not None:
        count, height, width = media.images.shape[:3]
        side = video.patch_size * video.merge_size
        n_video = -(-count // video.temporal_patch_size) * (height // side) * (width // side)
    n_audio = 0
    if media.waveform is not None:
        n_audio = audio_tokens(-(-len(media.waveform) // extractor.hop_length))
    return n_video, n_audio


def audio_tokens(mel_frames: int) -> int:
    """Number of tokens for a spectrogram of ``mel_frames``: a convolution and a pooling, each of stride two."""
    return max(0, ((mel_frames - 1) // 2 + 1 - 2) // 2 + 1) if mel_frames else 0
