"""Build the inputs of a Qwen2.5-Omni thinker from decoded media and a question, with its own processor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from omnisift.errors import UsageError
from omnisift.media import Media, read
from omnisift.media.reader import MAX_SECONDS
from omnisift.media.reading import Sampling

if TYPE_CHECKING:
    from transformers import BatchFeature

_DEFAULT_SIZE = {"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28}
"""Pixels of one frame, as in Transformers' Qwen2.5-Omni processor and in ``qwen-omni-utils``."""

PAPER_MAX_PIXELS = 320 * 28 * 28
"""Pixels of one frame in the paper's training and evaluation."""


def read_for(
    processor: Any,
    path: str | Path,
    *,
    fps: float = 2.0,
    max_frames: int | None = None,
    max_pixels: int | None = None,
    sampling: Sampling = "time",
    max_seconds: float = MAX_SECONDS,
) -> Media:
    """Decode a clip at the image sizes that ``processor`` takes.

    ``max_seconds`` as `omnisift.media.read` has it, the other arguments as `omnisift.Pipeline.read` has them.

    Raises:
        MediaError: the file cannot be read as asked.
        UsageError: an argument is out of range.
    """
    min_pixels, limit = pixel_limits(processor)
    limit = min(limit, PAPER_MAX_PIXELS) if max_pixels is None else max_pixels
    return read(
        path,
        fps=fps,
        max_frames=max_frames,
        min_pixels=min(min_pixels, limit),
        max_pixels=limit,
        sampling=sampling,
        max_seconds=max_seconds,
    )


def build_inputs(processor: Any, media: Media, question: str, system: str | None = None) -> BatchFeature:
    """Inputs of ``generate`` for one prompt, on the CPU: the media first, then the question.

    The frames were scaled by `omnisift.media`, so the processor must not scale them again. The real frame rate is
    passed on: Transformers assumes 2.0 for every call, which gives long clips wrong time positions.
    """
    text = prompt_text(processor, media, question, system)
    inputs: BatchFeature = processor(text=[text], return_tensors="pt", **media_arguments(processor, media))
    inputs["use_audio_in_video"] = media.has_video and media.has_audio
    return inputs


def prompt_text(processor: Any, media: Media, question: str, system: str | None = None) -> str:
    """The prompt as text, with one `placeholder` for the clip.

    Raises:
        UsageError: the question or the system prompt contains a placeholder itself.
    """
    for token in (processor.video_token, processor.audio_token, processor.image_token):
        if token in question or token in (system or ""):
            raise UsageError(f"the question contains {token}, which stands for a clip in a prompt; leave it out")
    conversation = _conversation(media, question, system)
    text: str = processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    return text


def placeholder(processor: Any, media: Media) -> str:
    """The token that stands for the clip in `prompt_text`."""
    token: str = processor.video_token if media.has_video else processor.audio_token
    return token


def pixel_limits(processor: Any) -> tuple[int, int]:
    """(minimum, maximum) pixels of a frame that the processor itself would resize to.

    Transformers ignores the size saved with the video processor: the Qwen2.5-Omni processor replaces it by its own
    default, unless the tokenizer's settings name a size (nano's do).
    """
    size = processor.tokenizer.init_kwargs.get("size") or _DEFAULT_SIZE
    return int(size["shortest_edge"]), int(size["longest_edge"])


def _conversation(media: Media, question: str, system: str | None) -> list[dict[str, Any]]:
    modality = "video" if media.has_video else "audio"
    content = [{"type": modality, modality: "-"}, {"type": "text", "text": question}]
    user: dict[str, Any] = {"role": "user", "content": content}
    if system is None:
        return [user]
    return [{"role": "system", "content": [{"type": "text", "text": system}]}, user]


def media_arguments(processor: Any, media: Media) -> dict[str, Any]:
    """Arguments that pass decoded media to a processor, which must not scale, sample or cut it a second time."""
    arguments: dict[str, Any] = {}
    if media.images is not None:
        arguments["videos"] = [np.ascontiguousarray(media.images.transpose(0, 3, 1, 2))]
        arguments["videos_kwargs"] = {"fps": media.fps, "do_resize": False, "do_sample_frames": False}
    if media.waveform is not None:
        arguments["audio"] = [media.waveform]
        # By default the feature extractor silently cuts audio at its own chunk length.
        arguments["audio_kwargs"] = {"truncation": False}
    if media.has_video and media.has_audio:
        arguments |= audio_in_video(processor)
    return arguments


def audio_in_video(processor: Any) -> dict[str, Any]:
    """Arguments that mark the audio as part of the video; Transformers renamed them in 5.23."""
    if hasattr(type(processor), "load_audio_from_video"):
        return {"load_audio_from_video": True, "audio_from_video_indices": [0]}
    return {"use_audio_in_video": True}
