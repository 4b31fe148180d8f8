"""Build the inputs of a model from decoded media and a question, with the model's own processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.errors import NoVideo, UsageError
from omnisift.media import Media, MediaFile, read
from omnisift.media.sampling import MAX_SECONDS, Sampling
from omnisift.media.work import MAX_DECODED_PIXELS, READ_TIMEOUT
from omnisift.models.qwen2_5_omni import audio_tokens
from omnisift.pipeline.chat_template import render_chat
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

_DEFAULT_TOKENS = 128, 768
"""(minimum, maximum) tokens of one frame, as in Transformers' processors of the Omni models and ``qwen-omni-utils``."""
_PAPER_TOKENS = 320
"""Maximum tokens of one frame in the paper's training and evaluation."""
PAPER_MAX_PIXELS = _PAPER_TOKENS * 28 * 28
"""The same in pixels, where a token is of 28 x 28."""

_VIDEO_INPUTS = ("pixel_values_videos", "video_grid_thw", "video_second_per_grid", "second_per_grid_ts")
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
            f"inputs takes the processor of a Qwen video model, got {type(processor).__name__}: load it with "
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
        **size_options(processor, max_pixels),
    )
    return heard_by(processor, media)


def read_arguments(processor: Any, reading: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `omnisift.media.read` that `read_for` passes for the fields of `ReadOptions`."""
    rest = {name: value for name, value in reading.items() if name != "max_pixels"}
    return {**rest, **size_options(processor, reading["max_pixels"])}


def hears(processor: Any) -> bool:
    """Whether the model of this processor takes audio."""
    return getattr(processor, "feature_extractor", None) is not None


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


def run_processor(processor: Any, text: str, media: Media | None, *, sizes_alone: bool = False) -> BatchFeature:
    """Inputs for a text with the placeholder of a clip, with patches as bytes where they are known.

    ``use_audio_in_video`` is among them for models that take audio.

    Args:
        processor: of the model.
        text: from `prompt_text`.
        media: the clip; None for a text without one.
        sizes_alone: whether frames and audio are left out. Only the sizes of the clip are then read.
    """
    arguments = {} if media is None else media_arguments(processor, media)
    if sizes_alone and media is not None:
        prepare = with_sizes_alone(processor, clip_size(media, processor)[1])
    else:
        prepare = with_patch_layout(processor)
    inputs: BatchFeature = prepare(text=[text], return_tensors="pt", **arguments)
    if hears(processor):
        inputs["use_audio_in_video"] = media is not None and media.has_video and media.has_audio
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


def size_options(processor: Any, max_pixels: int | None) -> dict[str, Any]:
    """The options of `omnisift.media.read` about sizes, for a processor and the ``max_pixels`` of a user."""
    lowest, highest = frame_limits(processor, max_pixels)
    # The largest size of a Qwen3-VL processor is of a clip as a whole.
    total = processor.video_processor.size["longest_edge"] if _has_timestamps(processor) else None
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
    token = frame_factor(processor) ** 2
    if max_pixels is not None and max_pixels < token:
        raise UsageError(f"max_pixels must be at least {token}, one token of this model, got {max_pixels}")
    highest = min(highest, _PAPER_TOKENS * frame_factor(processor) ** 2) if max_pixels is None else max_pixels
    return min(lowest, highest), highest


def frame_factor(processor: Any) -> int:
    """Pixels along one side of a token: height and width of a frame are multiples of it."""
    video = processor.video_processor
    return int(video.patch_size * video.merge_size)


def pixel_limits(processor: Any) -> tuple[int, int]:
    """(minimum, maximum) pixels of a frame that the processor itself would resize to.

    Transformers ignores the size saved with the video processor of an Omni model: the processor replaces it by its own
    default, unless the tokenizer's settings name a size (nano's do).
    """
    token = frame_factor(processor) ** 2
    size = processor.tokenizer.init_kwargs.get("size")
    if size is None and hears(processor):
        return _DEFAULT_TOKENS[0] * token, _DEFAULT_TOKENS[1] * token
    size = processor.video_processor.size if size is None else size
    # The sizes of Qwen3-VL are of a clip as a whole, so that a frame may have a single token.
    lowest = token if _has_timestamps(processor) else int(size["shortest_edge"])
    return lowest, int(size["longest_edge"])


def _has_timestamps(processor: Any) -> bool:
    """Whether the processor writes the time of each frame into the prompt, as that of Qwen3-VL does."""
    return hasattr(processor, "_calculate_timestamps")


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
        _check_frame_size(processor, media)
        arguments["videos"] = [media.images.transpose(0, 3, 1, 2)]
        arguments["videos_kwargs"] = {"do_resize": False, "do_sample_frames": False, **_frame_rate(processor, media)}
    if media.waveform is not None:
        arguments["audio"] = [media.waveform]
        # By default the feature extractor silently cuts audio at its own chunk length.
        arguments["audio_kwargs"] = {"truncation": False, **own_length(processor, len(media.waveform))}
    if media.has_video and media.has_audio:
        arguments |= audio_in_video(processor)
    return arguments


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
    if hears(processor):
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
            width = max(feature.shape[-1] for feature in features)
            batch[name] = torch.cat([F.pad(feature, (0, width - feature.shape[-1])) for feature in features])
    if "use_audio_in_video" in rows[0]:
        batch["use_audio_in_video"] = any(row["use_audio_in_video"] for row in rows)
    return batch


def _pad_left(row: Tensor, length: int, value: int) -> Tensor:
    return F.pad(row, (length - row.shape[1], 0), value=value)


def clip_size(media: Media, processor: Any) -> tuple[tuple[int, int, int], int]:
    """Size of a clip as the encoders read it, from its dimensions alone.

    Returns:
        The video tokens along time, height and width, zeros without video; and the frames of the spectrogram, 0 without
        audio.
    """
    video = processor.video_processor
    grid = (0, 0, 0)
    if media.images is not None:
        count, height, width = media.images.shape[:3]
        side = frame_factor(processor)
        grid = (-(-count // video.temporal_patch_size), height // side, width // side)
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
