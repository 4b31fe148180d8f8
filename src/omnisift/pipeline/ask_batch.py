"""Several prompts in one call: the rows of a batch, and what each of them cost."""

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

_MEDIA = ("pixel_values_videos", "video_grid_thw", "video_second_per_grid")
_SOUND = ("input_features", "feature_attention_mask")


@dataclass(frozen=True)
class Reply:
    """One answer of a batch."""

    text: str
    tokens: Tokens
    seconds: dict[str, float]
    """Stages of `Stopwatch`, each divided by the number of rows: they share one call."""
    together: int
    """How many rows the call had."""
    peak_memory_bytes: int | None
    """Of the whole call; see `peak_memory`."""
    grid: tuple[int, int, int]
    """Video tokens along time, height and width, before compression; zeros without picture."""
    mel: int
    """Frames of the spectrogram; 0 without sound."""


def kind(media: Media) -> tuple[bool, bool]:
    """Whether it has picture, and sound. A call has one switch for the sound of all its videos, so kinds can't mix."""
    return media.has_video, media.has_audio


@torch.inference_mode()
def ask_batch(
    pipeline: Pipeline,
    asked: Sequence[tuple[Media, str]],
    *,
    max_new_tokens: int = 256,
    system: str | None = None,
) -> list[Reply]:
    """Answer each question about its clip, all in one call; greedy decoding. The answers are those of single calls.

    Raises:
        UsageError: the clips are of different `kind`, or there is none.
    """
    if len({kind(media) for media, _ in asked}) != 1:
        raise UsageError("clips with and without picture or sound were put in one batch; group them by `kind`")
    thinker, processor = pipeline.host.thinker, pipeline.host.processor
    rows = [build_inputs(processor, media, question, system) for media, question in asked]
    device = pipeline.host.device
    ends = _ends(thinker, processor)
    inputs = BatchFeature(join_rows(rows, ends["pad_token_id"])).to(device, pipeline.host.dtype)
    reset_peak_memory(device)
    plug = attach(thinker, pipeline.compressor) if pipeline.compressor is not None else nullcontext(None)
    with plug as attachment, Stopwatch(thinker, pipeline.compressor) as watch:
        output = thinker.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, **ends)
    written = [_until_end(row, ends["eos_token_id"]) for row in output[:, inputs["input_ids"].shape[1] :]]
    tokens = _count(thinker.config, inputs, written, attachment.last if attachment is not None else None)
    seconds = {stage: spent / len(rows) for stage, spent in watch.spent.items()}
    memory = peak_memory(device)
    texts = [processor.tokenizer.decode(row, skip_special_tokens=True).strip() for row in written]
    merge = thinker.config.vision_config.spatial_merge_size
    sizes = [(_grid(row, merge), _mel(row)) for row in rows]
    return [
        Reply(text, count, seconds, len(rows), memory, *size)
        for text, count, size in zip(texts, tokens, sizes, strict=True)
    ]


def join_rows(rows: Sequence[Mapping[str, Any]], pad: int) -> dict[str, Any]:
    """One batch of rows of one prompt each, padded on the left; media tensors one after the other.

    ``pad`` fills ``input_ids``; ``labels``, where there are any, get -100.
    """
    length = max(row["input_ids"].shape[1] for row in rows)
    fill = {"input_ids": pad, "attention_mask": 0, "labels": -100}
    batch: dict[str, Any] = {
        name: torch.cat([_left(row[name], length, value) for row in rows])
        for name, value in fill.items()
        if name in rows[0]
    }
    for name in _MEDIA:
        parts = [torch.as_tensor(row[name]) for row in rows if name in row]
        if parts:
            batch[name] = torch.cat(parts)
    for name in _SOUND:
        sounds = [row[name] for row in rows if name in row]
        if sounds:
            width = max(sound.shape[-1] for sound in sounds)
            batch[name] = torch.cat([F.pad(sound, (0, width - sound.shape[-1])) for sound in sounds])
    batch["use_audio_in_video"] = any(row["use_audio_in_video"] for row in rows)
    return batch


def _grid(row: Mapping[str, Any], merge: int) -> tuple[int, int, int]:
    if "video_grid_thw" not in row:
        return 0, 0, 0
    time, height, width = torch.as_tensor(row["video_grid_thw"])[0].tolist()
    return time, height // merge, width // merge


def _mel(row: Mapping[str, Any]) -> int:
    return int(row["feature_attention_mask"].sum()) if "feature_attention_mask" in row else 0


def _left(row: Tensor, length: int, value: int) -> Tensor:
    return F.pad(row, (length - row.shape[1], 0), value=value)


def _ends(thinker: Any, processor: Any) -> dict[str, Any]:
    """The tokens that end a turn and fill up behind it. Full-size checkpoints leave them to the tokenizer."""
    end = thinker.generation_config.eos_token_id
    end = processor.tokenizer.eos_token_id if end is None else end
    pad = thinker.generation_config.pad_token_id
    pad = processor.tokenizer.pad_token_id if pad is None else pad
    first = end[0] if isinstance(end, list) else end
    return {"eos_token_id": end, "pad_token_id": first if pad is None else pad}


def _until_end(row: Tensor, end: int | list[int]) -> Tensor:
    """Up to and with the first end: what follows is fill."""
    ends = torch.tensor(end if isinstance(end, list) else [end], device=row.device)
    places = torch.isin(row, ends).nonzero()
    return row[: int(places[0]) + 1] if len(places) else row


def _count(
    config: Any, inputs: Mapping[str, Any], written: Sequence[Tensor], compression: Compression | None
) -> list[Tokens]:
    ids, real = inputs["input_ids"], inputs["attention_mask"].bool()
    counts = []
    for place, said in enumerate(written):
        video = int((ids[place] == config.video_token_id).sum())
        audio = int((ids[place] == config.audio_token_id).sum())
        kept_video, kept_audio = video, audio
        if compression is not None:
            kept_video = compression.kept_video_rows[place]
            kept_audio = audio - compression.n_audio_rows[place] + compression.kept_audio_rows[place]
        prompt = int(real[place].sum())
        counts.append(Tokens(video, kept_video, audio, kept_audio, prompt, int(said.shape[0])))
    return counts
