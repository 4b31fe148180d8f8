"""The context of a model: how many tokens a prompt and its answer may have together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from omnisift.chunks import ChunkShapes, has_clips
from omnisift.compressors import Compressor
from omnisift.errors import TooBig
from omnisift.models import adapter_for
from omnisift.models.adapter import Prompt
from omnisift.models.layout import with_lines
from omnisift.pipeline.encoded_clip import PromptRow
from omnisift.pipeline.loading import Host

_STRETCHING = ("linear", "dynamic", "yarn")
"""Types of rotary scaling whose ``factor`` multiplies the trained context; others state the result themselves."""


def check_context(host: Host, compressor: Compressor | None, row: PromptRow, max_new_tokens: int) -> None:
    """Check that a prompt, compressed, and its answer fit into the model's context; no encoder runs.

    Beyond it Transformers answers without a warning, from positions and lengths that the model was not trained on.

    Raises:
        TooBig: they don't.
    """
    limit = host.max_length or context_length(host.thinker.config)
    length = int(row.inputs["input_ids"].shape[1])
    if limit is None or length + max_new_tokens <= limit:
        return
    kept = length if compressor is None else _kept_tokens(host, compressor, row)
    if kept + max_new_tokens > limit:
        before = "" if kept == length else f" after compression ({length} before)"
        remedy = "lower retain or tokens, fps, max_frames or max_new_tokens"
        if compressor is not None and not compressor.budget.compress_audio and not row.media.has_video:
            remedy = "compress the audio (compress_audio=True, --compress-audio)"
        raise TooBig(
            f"{row.media.path}: the prompt has {kept} tokens{before} and up to {max_new_tokens} new ones follow, but "
            f"the context is {limit}; {remedy}, or raise max_length"
        )


def context_length(config: Any) -> int | None:
    """Tokens that the language model was made for, rotary scaling included; None if its configuration has no limit.

    Args:
        config: of the model or its thinker, as Transformers loads it.
    """
    text = config.get_text_config()
    positions: int | None = getattr(text, "max_position_embeddings", None)
    if positions is None:
        return None
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    return max([positions, *(_scaled_length(positions, part) for part in _scalings(rope))])


def _scalings(rope: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The settings themselves, or those of each type of layer."""
    nested = [part for part in rope.values() if isinstance(part, Mapping)]
    yield from nested or [rope]


def _scaled_length(positions: int, rope: Mapping[str, Any]) -> int:
    if rope.get("rope_type", rope.get("type")) not in _STRETCHING:
        return positions
    return int((rope.get("original_max_position_embeddings") or positions) * (rope.get("factor") or 1.0))


def _kept_tokens(host: Host, compressor: Compressor, row: PromptRow) -> int:
    """Tokens of a prompt after compression, from the budget and the shapes of its chunks alone."""
    length = int(row.inputs["input_ids"].shape[1])
    shapes = _shapes(host, compressor, row) if row.outline is None else row.outline.shapes
    full = shapes.frame0 + shapes.frame1 + shapes.audio + shapes.text
    counts = compressor.budget.counts(shapes)
    return length - int(full.sum()) + int(counts.by_segment().sum() + counts.text.sum())


def _shapes(host: Host, compressor: Compressor, row: PromptRow) -> ChunkShapes:
    """The chunks of a prompt, of which there are none without clips."""
    adapter, inputs, ids = adapter_for(host.thinker), row.inputs, row.inputs["input_ids"]
    modality = adapter.modality(ids, inputs)
    compress_audio = compressor.budget.compress_audio
    if not has_clips(modality, compress_audio=compress_audio):
        return ChunkShapes(*torch.zeros(4, 0, dtype=torch.int64))
    mask = torch.ones_like(ids, dtype=torch.bool)
    prompt = Prompt(ids, mask, modality, inputs, compress_audio=compress_audio)
    layout = with_lines(adapter.layout(prompt), [row.lines], mask)
    return ChunkShapes.of(layout.stream(torch.empty(*ids.shape, 0)))
