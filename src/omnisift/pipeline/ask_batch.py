"""Answer several prompts in one ``generate`` call, and count each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BatchFeature

from omnisift.errors import UsageError
from omnisift.media import Media
from omnisift.models import attach
from omnisift.pipeline.prompt import build_inputs
from omnisift.pipeline.report import Tokens
from omnisift.pipeline.stopwatch import Stopwatch, peak_memory, reset_peak_memory

if TYPE_CHECKING:
    from omnisift.models import Compression
    from omnisift.pipeline.ask import Pipeline

_VIDEO_INPUTS = ("pixel_values_videos", "video_grid_thw", "video_second_per_grid")
_AUDIO_INPUTS = ("input_features", "feature_attention_mask")


@dataclass(frozen=True)
class BatchAnswer:
    """One answer of a batch."""

    text: str
    tokens: Tokens
    seconds: dict[str, float]
    """Seconds of each stage of `Stopwatch`, divided by the batch size: the prompts share one call."""
    batch_size: int
    peak_memory_bytes: int | None
    """Peak of the whole call; see `peak_memory`."""
    grid: tuple[int, int, int]
    """Video tokens along time, height and width, before compression; zeros without video."""
    mel_frames: int
    """Frames of the spectrogram; 0 without audio."""


def modalities(media: Media) -> tuple[bool, bool]:
    """(has video, has audio). Transformers has one audio switch per call, so a batch needs equal modalities."""
    return media.has_video, media.has_audio


@torch.inference_mode()
def ask_batch(
    pipeline: Pipeline,
    prompts: Sequence[tuple[Media, str]],
    *,
    max_new_tokens: int = 256,
    system: str | None = None,
) -> list[BatchAnswer]:
    """Answer each question about its clip in one call, with greedy decoding. The answers equal those of single calls.

    Args:
        pipeline: a loaded model with its compressor.
        prompts: (clip, question) pairs whose clips have the same `modalities`.
        max_new_tokens: maximum number of generated tokens per answer.
        system: a system prompt for all of them.

    Returns:
        One answer per prompt, in their order.

    Raises:
        UsageError: the clips differ in `modalities`, or there are none.
    """
    if len({modalities(media) for media, _ in prompts}) != 1:
        raise UsageError("a batch needs clips that all have video, all have audio, or both; group them by `modalities`")
    host = pipeline.host
    thinker, processor = host.thinker, host.processor
    # Build every prompt alone, then pad on the left.
    rows = [build_inputs(processor, media, question, system) for media, question in prompts]
    stop_tokens = host.stop_tokens
    inputs = BatchFeature(join_rows(rows, stop_tokens["pad_token_id"])).to(host.device, host.dtype)
    # Generate.
    reset_peak_memory(host.device)
    attaching = attach(thinker, pipeline.compressor) if pipeline.compressor is not None else nullcontext(None)
    with attaching as attachment, Stopwatch(thinker, pipeline.compressor) as watch:
        output = thinker.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, **stop_tokens)
    # Split the result by prompt.
    generated = [_until_stop(row, stop_tokens["eos_token_id"]) for row in output[:, inputs["input_ids"].shape[1] :]]
    lengths = [int(row.shape[0]) for row in generated]
    tokens = count_rows(thinker.config, inputs, lengths, attachment.last if attachment is not None else None)
    seconds = {stage: spent / len(rows) for stage, spent in watch.spent.items()}
    memory = peak_memory(host.device)
    merge_size = thinker.config.vision_config.spatial_merge_size
    return [
        BatchAnswer(
            text=processor.tokenizer.decode(row, skip_special_tokens=True).strip(),
            tokens=count,
            seconds=seconds,
            batch_size=len(rows),
            peak_memory_bytes=memory,
            grid=_grid(inputs_of_row, merge_size),
            mel_frames=_mel_frames(inputs_of_row),
        )
        for row, count, inputs_of_row in zip(generated, tokens, rows, strict=True)
    ]


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


def _grid(row: Mapping[str, Any], merge_size: int) -> tuple[int, int, int]:
    if "video_grid_thw" not in row:
        return 0, 0, 0
    time, height, width = torch.as_tensor(row["video_grid_thw"])[0].tolist()
    return time, height // merge_size, width // merge_size


def _mel_frames(row: Mapping[str, Any]) -> int:
    return int(row["feature_attention_mask"].sum()) if "feature_attention_mask" in row else 0


def _pad_left(row: Tensor, length: int, value: int) -> Tensor:
    return F.pad(row, (length - row.shape[1], 0), value=value)


def _until_stop(row: Tensor, eos: int | list[int]) -> Tensor:
    """The tokens up to and including the first end token; the rest is padding."""
    stops = torch.tensor(eos if isinstance(eos, list) else [eos], device=row.device)
    indices = torch.isin(row, stops).nonzero()
    return row[: int(indices[0]) + 1] if len(indices) else row


def count_rows(
    config: Any, inputs: Mapping[str, Any], generated: Sequence[int], compression: Compression | None
) -> list[Tokens]:
    """Token counts of each prompt of a batch; padding is not counted.

    Args:
        config: the thinker's configuration.
        inputs: the inputs of the call, before compression.
        generated: number of generated tokens of each row.
        compression: what was kept; None if every token was.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    counts = []
    for row, length in enumerate(generated):
        video = int((ids[row] == config.video_token_id).sum())
        audio = int((ids[row] == config.audio_token_id).sum())
        kept_video, kept_audio = video, audio
        if compression is not None:
            kept_video = compression.kept_video_rows[row]
            # Audio outside a video is not compressed.
            kept_audio = audio - compression.n_audio_rows[row] + compression.kept_audio_rows[row]
        counts.append(Tokens(video, kept_video, audio, kept_audio, int(mask[row].sum()), length))
    return counts
