"""Build the inputs of a model from decoded media and a question, with the model's own processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.errors import NoVideo, UsageError
from omnisift.media import SAMPLE_RATE, Media, MediaFile, read
from omnisift.media.sampling import MAX_SECONDS, Sampling
from omnisift.media.subtitles import TextKind
from omnisift.media.work import MAX_DECODED_PIXELS, READ_TIMEOUT
from omnisift.models.qwen2_5_omni import audio_tokens
from omnisift.pipeline.chat_template import render_chat
from omnisift.pipeline.clip_format import ClipFormat, frame_factor, hears, size_options
from omnisift.pipeline.preparation import (
    normalize_patches,
    own_length,
    padded_length,
    with_patch_layout,
    with_sizes_alone,
)
from omnisift.utils.questions import check_question, check_text
from omnisift.utils.special_tokens import SpecialTokens

if TYPE_CHECKING:
    from transformers import BatchFeature

_VIDEO_INPUTS = (
    "pixel_values_videos", "video_grid_thw", "video_second_per_grid", "second_per_grid_ts", "video_position_ids",
    "num_frames_per_video",
)  # fmt: skip
_AUDIO_INPUTS = ("input_features", "feature_attention_mask", "input_features_mask")
MAX_AUDIO_SECONDS = 30
"""Longest audio item of Gemma 4, of which a longer audio track has several."""
_TOKEN_SAMPLES = 640
"""Samples of an audio token of Gemma 4."""


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
        processor: the processor of a supported model (docs/models.md), as `AutoProcessor` loads it.
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
        ``input_ids`` and ``attention_mask`` of shape [1, L], the media tensors, and what else the model takes:
        ``use_audio_in_video`` or ``mm_token_type_ids``.

    Raises:
        MediaError: the file cannot be read as asked.
        UsageError: an argument is out of range, ``processor`` is no processor, or the question is empty or contains a
            special token of the model.
    """
    if not hasattr(processor, "apply_chat_template") or not hasattr(processor, "tokenizer"):
        raise UsageError(
            f"inputs takes the processor of a supported model, got {type(processor).__name__}: load it with "
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
    text: TextKind = None,
) -> Media:
    """Decode a clip at the image sizes that ``processor`` takes; a `Media` is decoded already and not scaled again.

    Audio is left out, with a warning, for a model that takes none.
    ``max_seconds`` as `omnisift.media.read` has it, the other arguments as `omnisift.Pipeline.read` has them.

    Raises:
        MediaError: the file cannot be read as asked; `NoVideo` if it is audio alone and the model takes none.
        UsageError: an argument is out of range.
    """
    if isinstance(path, Media):
        return heard_by(processor, path)
    media = read(
        path,
        fps=fps,
        max_frames=max_frames,
        sampling=sampling,
        max_seconds=max_seconds,
        max_decoded_pixels=max_decoded_pixels,
        read_timeout=read_timeout,
        text=text,
        **size_options(processor, max_pixels),
    )
    return heard_by(processor, media)


def read_arguments(processor: Any, reading: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `omnisift.media.read` that `read_for` passes for the fields of `ReadOptions`."""
    rest = {name: value for name, value in reading.items() if name != "max_pixels"}
    return {**rest, **size_options(processor, reading["max_pixels"])}


def heard_by(processor: Any, media: Media) -> Media:
    """The clip without its audio, and a warning about that, if the model of ``processor`` takes none.

    Raises:
        NoVideo: nothing is left.
    """
    if media.waveform is None or hears(processor):
        return media
    if media.images is None:
        raise NoVideo(f"{media.path} is audio alone, which this model does not take; give a clip with video")
    return replace(media, waveform=None, warnings=(*media.warnings, "the audio is left out: this model takes none"))


def build_inputs(processor: Any, media: Media, question: str, system: str | None = None) -> BatchFeature:
    """Inputs of ``generate`` for one prompt, on the CPU: the media first, then the question.

    The frames were scaled by `omnisift.media`, so the processor must not scale them again. The real frame rate is
    passed on: Transformers assumes 2.0 for every call, which gives long clips wrong time positions.
    """
    inputs = build_compact_inputs(processor, media, question, system)
    return type(inputs)(normalize_patches(processor, inputs))


def build_compact_inputs(processor: Any, media: Media, question: str, system: str | None = None) -> BatchFeature:
    """As `build_inputs`, with patches of frames as bytes where they are known, for `normalize_patches`."""
    media = heard_by(processor, media)
    return run_processor(processor, prompt_text(processor, media, question, system), media)


def run_processor(
    processor: Any,
    text: str,
    media: Media | None,
    *,
    sizes_alone: bool = False,
    image_numbers: Sequence[int] | None = None,
) -> BatchFeature:
    """Inputs for a text with the placeholder of a clip, with patches as bytes where they are known.

    ``use_audio_in_video`` is among them for models that take audio.

    Args:
        processor: of the model.
        text: from `prompt_text`.
        media: the clip; None for a text without one.
        sizes_alone: whether frames and audio are left out. Only the sizes of the clip are then read.
        image_numbers: of each image, from which a processor that writes times has them; None counts from 0.
    """
    arguments = {} if media is None else media_arguments(processor, media)
    if image_numbers is not None:
        arguments["videos_kwargs"]["video_metadata"][0].frames_indices = list(image_numbers)
    if sizes_alone and media is not None:
        prepare = with_sizes_alone(processor, clip_size(media, processor)[1])
    else:
        prepare = with_patch_layout(processor)
    inputs: BatchFeature = prepare(text=[text], return_tensors="pt", **arguments, **text_options(processor, text))
    if hears(processor) and not ClipFormat.of(processor).audio_apart:
        inputs["use_audio_in_video"] = media is not None and media.has_video and media.has_audio
    return inputs


def prompt_text(processor: Any, media: Media, question: str, system: str | None = None) -> str:
    """The prompt as text, with one `placeholder` for the clip.

    Raises:
        UsageError: the question or the system prompt is empty or contains a special token of the model.
    """
    check_prompt(processor, question, system)
    conversation = _conversation(processor, media, question, system)
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
    """The token that stands for the video in `prompt_text`, or for audio alone."""
    token: str = processor.video_token if media.has_video else processor.audio_token
    return token


def text_options(processor: Any, text: str) -> dict[str, Any]:
    """The argument with which a tokenizer does not repeat the token that begins a text, as chat templates write it."""
    begin = processor.tokenizer.bos_token
    return {"text_kwargs": {"add_special_tokens": False}} if begin and text.startswith(begin) else {}


def around_clip(processor: Any, media: Media, text: str) -> tuple[str, str]:
    """The text of `prompt_text` before and after the tokens that stand for the clip."""
    tokens = [processor.video_token] if media.has_video else []
    if media.has_audio and (not media.has_video or ClipFormat.of(processor).audio_apart):
        tokens.append(processor.audio_token)
    return text[: text.index(tokens[0])], text[text.rindex(tokens[-1]) + len(tokens[-1]) :]


def _conversation(processor: Any, media: Media, question: str, system: str | None) -> list[dict[str, Any]]:
    kinds = ["video" if media.has_video else "audio"]
    if ClipFormat.of(processor).audio_apart and media.has_audio:
        kinds = ["video"] * media.has_video + ["audio"] * len(audio_items(media))
    content = [*({"type": kind, kind: "-"} for kind in kinds), {"type": "text", "text": question}]
    user: dict[str, Any] = {"role": "user", "content": content}
    if system is None:
        return [user]
    return [{"role": "system", "content": [{"type": "text", "text": system}]}, user]


def media_arguments(processor: Any, media: Media) -> dict[str, Any]:
    """Arguments that pass decoded media to a processor, which must not scale, sample or cut it a second time."""
    layout = ClipFormat.of(processor)
    arguments: dict[str, Any] = {}
    if media.images is not None:
        _check_frame_size(processor, media)
        arguments["videos"] = [media.images.transpose(0, 3, 1, 2)]
        scaling: dict[str, Any] = {} if layout.scaled_pixels is not None else {"do_resize": False}
        arguments["videos_kwargs"] = {"do_sample_frames": False, **scaling, **_frame_rate(processor, media)}
    if media.waveform is not None:
        arguments["audio"] = audio_items(media) if layout.audio_apart else [media.waveform]
        # By default the feature extractor silently cuts audio at its own chunk length.
        arguments["audio_kwargs"] = {"truncation": False, **own_length(processor, len(media.waveform))}
    if media.has_video and media.has_audio and not layout.audio_apart:
        arguments |= audio_in_video(processor)
    return arguments


def audio_items(media: Media) -> list[Any]:
    """The waveform in items of at most `MAX_AUDIO_SECONDS`, without a rest that is shorter than a token.

    A waveform that is shorter itself gets silence.
    """
    wave, most = media.waveform, MAX_AUDIO_SECONDS * SAMPLE_RATE
    if wave is None:
        return []
    if len(wave) < _TOKEN_SAMPLES:
        return [np.pad(wave, (0, _TOKEN_SAMPLES - len(wave)))]
    items = [wave[start : start + most] for start in range(0, len(wave), most)]
    return items[:-1] if len(items[-1]) < _TOKEN_SAMPLES else items


def _check_frame_size(processor: Any, media: Media) -> None:
    """`UsageError` for frames that were scaled for another model."""
    factor, (height, width) = frame_factor(processor), media.images.shape[1:3]  # type: ignore[union-attr]
    if height % factor or width % factor:
        raise UsageError(
            f"{media.path} has frames of {width} x {height} pixels, but this model takes multiples of {factor}: read "
            f"the clip with its pipeline, or with factor={factor}"
        )


def _frame_rate(processor: Any, media: Media) -> dict[str, Any]:
    """The argument that tells a processor the real frame rate: models without audio read it from the metadata."""
    layout = ClipFormat.of(processor)
    if hears(processor) and not layout.audio_apart:
        return {"fps": media.fps}
    from transformers.video_utils import VideoMetadata

    count = len(media.images) if media.images is not None else 0
    metadata = VideoMetadata(total_num_frames=count, fps=media.fps, frames_indices=list(range(count)))
    return {"video_metadata": [metadata]}


def audio_in_video(processor: Any) -> dict[str, Any]:
    """Arguments that mark the audio as part of the video; Transformers renamed them in 5.23."""
    if hasattr(type(processor), "load_audio_from_video"):
        return {"load_audio_from_video": True, "audio_from_video_indices": [0]}
    return {"use_audio_in_video": True}


def join_rows(rows: Sequence[Mapping[str, Any]], pad_token_id: int) -> dict[str, Any]:
    """One batch from inputs of one prompt each: text padded on the left, media tensors concatenated.

    ``labels``, where there are any, are padded with -100, and ``mm_token_type_ids`` as text.
    """
    length = max(row["input_ids"].shape[1] for row in rows)
    fill = {"input_ids": pad_token_id, "attention_mask": 0, "labels": -100, "mm_token_type_ids": 0}
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
            # Time is the last axis, but for spectrograms that have a row for each time.
            axis = 1 if "input_features_mask" in rows[0] else -1
            width = max(feature.shape[axis] for feature in features)
            batch[name] = torch.cat([_pad_right(feature, axis, width) for feature in features])
    if "use_audio_in_video" in rows[0]:
        batch["use_audio_in_video"] = any(row["use_audio_in_video"] for row in rows)
    return batch


def _pad_right(values: Tensor, axis: int, length: int) -> Tensor:
    padding = [0, 0] * (values.ndim - 1 - axis % values.ndim)
    return F.pad(values, (*padding, 0, length - values.shape[axis]))


def _pad_left(row: Tensor, length: int, value: int) -> Tensor:
    return F.pad(row, (length - row.shape[1], 0), value=value)


def clip_size(media: Media, processor: Any) -> tuple[tuple[int, int, int], int]:
    """Size of a clip as the encoders read it, from its dimensions alone.

    Returns:
        The video tokens along time, height and width, zeros without video; and the frames of the spectrogram, 0 without
        audio.
    """
    grid = (0, 0, 0)
    if media.images is not None:
        count, height, width = media.images.shape[:3]
        side = frame_factor(processor)
        grid = (-(-count // ClipFormat.of(processor).images), height // side, width // side)
    mel_frames = 0
    if media.waveform is not None and hears(processor):
        extractor = processor.feature_extractor
        # A last incomplete hop counts only in a clip that is padded.
        samples, hop = len(media.waveform), extractor.hop_length
        mel_frames = min(-(-samples // hop), padded_length(processor, samples) // hop)
    return grid, mel_frames


def count_tokens(media: Media, processor: Any) -> tuple[int, int]:
    """(video, audio) tokens that the processor of Qwen2.5-Omni makes of the clip; from its dimensions alone."""
    (time, height, width), mel_frames = clip_size(media, processor)
    return time * height * width, audio_tokens(mel_frames)
