"""Build the inputs of a model from decoded media and a question, with the model's own processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.errors import UsageError
from omnisift.media import Media, MediaFile, read
from omnisift.media.sampling import MAX_SECONDS, Sampling
from omnisift.media.work import MAX_DECODED_PIXELS, READ_TIMEOUT
from omnisift.models.qwen2_5_omni import audio_tokens
from omnisift.pipeline.chat_template import render_chat
from omnisift.utils.questions import check_question, check_text
from omnisift.utils.special_tokens import SpecialTokens

if TYPE_CHECKING:
    from transformers import BatchFeature

_DEFAULT_SIZE = {"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28}
"""Pixels of one frame, as in Transformers' Qwen2.5-Omni processor and in ``qwen-omni-utils``."""

PAPER_MAX_PIXELS = 320 * 28 * 28
"""Pixels of one frame in the paper's training and evaluation."""

_VIDEO_INPUTS = ("pixel_values_videos", "video_grid_thw", "video_second_per_grid")
_AUDIO_INPUTS = ("input_features", "feature_attention_mask")


def inputs(
    processor: Any,
    clip: MediaFile | Media,
    question: str,
    *,
    fps: float = 2.0,
    max_frames: int | None = None,
    max_pixels: int | None = None,
    sampling: Sampling = "time",
    max_decoded_pixels: int = MAX_DECODED_PIXELS,
    read_timeout: float = READ_TIMEOUT,
    system: str | None = None,
) -> BatchFeature:
    """Read a clip and build what ``model.generate(**inputs)`` needs to answer a question about it.

    The tensors are on the CPU; ``inputs.to(model.device, model.dtype)`` moves them.

    Args:
        processor: the Qwen2.5-Omni processor of the model, as `AutoProcessor` loads it.
        clip: path of a media file or a file object, as `omnisift.read` takes them; or a `Media`, which is sampled
            already.
        question: a question in the model's language.
        fps: frames sampled per second; lowered for the whole clip where ``max_frames`` caps it.
        max_frames: maximum number of frames; None means 256, or 768 with ``qwen`` sampling.
        max_pixels: maximum pixels per frame; None means the paper's 320 x 28 x 28 or the processor's limit.
        sampling: ``time``, or ``qwen`` for the index rule of published results.
        max_decoded_pixels: maximum pixels of all frames that are decoded for the clip.
        read_timeout: maximum seconds to read the clip.
        system: a system prompt; None sends none, as in the paper's evaluation.

    Returns:
        ``input_ids`` and ``attention_mask`` of shape [1, L], the media tensors, and ``use_audio_in_video``.

    Raises:
        MediaError: the file cannot be read as asked.
        UsageError: an argument is out of range, ``processor`` is no processor, or the question is empty or contains a
            special token of the model.
    """
    if not hasattr(processor, "apply_chat_template") or not hasattr(processor, "tokenizer"):
        raise UsageError(
            f"inputs takes the processor of a Qwen2.5-Omni model, got {type(processor).__name__}: load it with "
            "AutoProcessor.from_pretrained"
        )
    check_prompt(processor, question, system)
    media = read_for(
        processor,
        clip,
        fps=fps,
        max_frames=max_frames,
        max_pixels=max_pixels,
        sampling=sampling,
        max_decoded_pixels=max_decoded_pixels,
        read_timeout=read_timeout,
    )
    return build_inputs(processor, media, question, system)


def read_for(
    processor: Any,
    path: MediaFile | Media,
    *,
    fps: float = 2.0,
    max_frames: int | None = None,
    max_pixels: int | None = None,
    sampling: Sampling = "time",
    max_seconds: float = MAX_SECONDS,
    max_decoded_pixels: int = MAX_DECODED_PIXELS,
    read_timeout: float = READ_TIMEOUT,
) -> Media:
    """Decode a clip at the image sizes that ``processor`` takes; a `Media` is decoded already and returned as it is.

    ``max_seconds`` as `omnisift.media.read` has it, the other arguments as `omnisift.Pipeline.read` has them.

    Raises:
        MediaError: the file cannot be read as asked.
        UsageError: an argument is out of range.
    """
    if isinstance(path, Media):
        return path
    lowest, highest = frame_limits(processor, max_pixels)
    return read(
        path,
        fps=fps,
        max_frames=max_frames,
        min_pixels=lowest,
        max_pixels=highest,
        sampling=sampling,
        max_seconds=max_seconds,
        max_decoded_pixels=max_decoded_pixels,
        read_timeout=read_timeout,
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
        UsageError: the question or the system prompt is empty or contains a special token of the model.
    """
    check_prompt(processor, question, system)
    conversation = _conversation(media, question, system)
    return render_chat(processor, conversation, add_generation_prompt=True)


def check_prompt(processor: Any, question: str, system: str | None = None) -> None:
    """Check the texts of a prompt, before a clip is read.

    Raises:
        UsageError: as `prompt_text`.
    """
    special = SpecialTokens.of(processor.tokenizer)
    check_question(question, special=special)
    if system is not None:
        check_text(system, "the system prompt", special)


def placeholder(processor: Any, media: Media) -> str:
    """The token that stands for the clip in `prompt_text`."""
    token: str = processor.video_token if media.has_video else processor.audio_token
    return token


def frame_limits(processor: Any, max_pixels: int | None) -> tuple[int, int]:
    """``min_pixels`` and ``max_pixels`` of `omnisift.media.read` for a processor and the ``max_pixels`` of a user."""
    if max_pixels is not None and not isinstance(max_pixels, Real):
        raise UsageError(f"max_pixels must be a number, got {type(max_pixels).__name__}")
    lowest, highest = pixel_limits(processor)
    highest = min(highest, PAPER_MAX_PIXELS) if max_pixels is None else max_pixels
    return min(lowest, highest), highest


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


def join_rows(rows: Sequence[Mapping[str, Any]], pad_token_id: int) -> dict[str, Any]:
    """One batch from inputs of one prompt each: text padded on the left, media tensors concatenated.

    ``labels``, where there are any, are padded with -100.
    """
    length = max(row["input_ids"].shape[1] for row in rows)
    fill = {"input_ids": pad_token_id, "attention_mask": 0, "labels": -100}
    batch: dict[str, Any] = {
        name: torch.cat([_pad_left(row[name], length, value) for row in rows])
        for name, value in fill.items()
        if name in rows[0]
    }
    for name in _VIDEO_INPUTS:
        parts = [torch.as_tensor(row[name]) for row in rows if name in row]
        if parts:
            batch[name] = torch.cat(parts)
    for name in _AUDIO_INPUTS:
        features = [row[name] for row in rows if name in row]
        if features:
            width = max(feature.shape[-1] for feature in features)
            batch[name] = torch.cat([F.pad(feature, (0, width - feature.shape[-1])) for feature in features])
    batch["use_audio_in_video"] = any(row["use_audio_in_video"] for row in rows)
    return batch


def _pad_left(row: Tensor, length: int, value: int) -> Tensor:
    return F.pad(row, (length - row.shape[1], 0), value=value)


def clip_size(media: Media, processor: Any) -> tuple[tuple[int, int, int], int]:
    """Size of a clip as the encoders of Qwen2.5-Omni read it, from its dimensions alone.

    Returns:
        The video tokens along time, height and width, zeros without video; and the frames of the spectrogram, 0 without
        audio.
    """
    video, extractor = processor.video_processor, processor.feature_extractor
    grid = (0, 0, 0)
    if media.images is not None:
        count, height, width = media.images.shape[:3]
        side = video.patch_size * video.merge_size
        grid = (-(-count // video.temporal_patch_size), height // side, width // side)
    mel_frames = 0
    if media.waveform is not None:
        # A last incomplete hop counts only in a clip that is padded to the extractor's own length.
        samples, hop = len(media.waveform), extractor.hop_length
        mel_frames = min(-(-samples // hop), max(samples, extractor.n_samples) // hop)
    return grid, mel_frames


def count_tokens(media: Media, processor: Any) -> tuple[int, int]:
    """(video, audio) tokens that the processor makes of the clip, before compression; from its dimensions alone."""
    (time, height, width), mel_frames = clip_size(media, processor)
    return time * height * width, audio_tokens(mel_frames)
