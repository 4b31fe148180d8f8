"""Thinkers of the served families in vLLM, with a compressor between their encoders and their language model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from omnisift.errors import UsageError
from omnisift.serving.clip_layout import ClipLayout, TimeConfig
from omnisift.serving.position_columns import detach_columns
from omnisift.serving.vllm.clip_compressor import ClipCompressor
from omnisift.serving.vllm.encoding import ClipInputs, encode_clips
from omnisift.serving.vllm.fractions import FractionalRope, pack, position_delta, unpack, use_fractions
from omnisift.serving.vllm.internals import (
    MULTIMODAL_REGISTRY,
    Mixin,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    SupportsMultiModalPruning,
)
from omnisift.serving.vllm.positions import (
    MediaSpan,
    image_positions,
    media_runs,
    prompt_positions,
    write_kept_positions,
)
from omnisift.serving.vllm.processor import (
    AUDIO_FEATURES,
    AUDIO_LENGTHS,
    CLIP_BUDGET,
    DummyInputs,
    Processor,
    Qwen3Info,
    Qwen25Info,
    item_audio_tokens,
    item_layout,
    unpack_budget,
)
from omnisift.serving.vllm.settings import RETENTION_KEYS, Settings
from omnisift.vgas import RELEASED_PREFIX

PRUNING_RATE = 0.5
"""vLLM asks a model for positions only if its own pruning is on. The number itself is not used."""


class ClipThinker(Mixin):  # type: ignore[misc]
    """What the plugin adds to vLLM's thinkers: videos arrive as clips and are compressed.

    Raises:
        OmniSiftError: the settings can't work with this checkpoint or these flags.
    """

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        multimodal = vllm_config.model_config.multimodal_config
        if multimodal.video_pruning_rate:
            raise UsageError("--video-pruning-rate is vLLM's own pruning; leave it out and set retain of omnisift")
        if multimodal.get_limit_per_prompt("video") and not multimodal.get_limit_per_prompt("audio"):
            raise UsageError(
                "'audio': 0 in limit_mm_per_prompt removes the audio encoder, which videos need; leave it out"
            )
        multimodal.video_pruning_rate = PRUNING_RATE
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        embed_size = self.config.text_config.hidden_size
        self._encoder_limit = vllm_config.scheduler_config.max_num_encoder_input_tokens
        self._parts = TimeConfig.of(self.config).parts
        # Features for the first layers of the language model, behind the embedding of a video token.
        self._row_size = embed_size * (1 + getattr(self, "deepstack_num_level", 0))
        settings = Settings.from_config(vllm_config.model_config.hf_config)
        self.clip_compressor = ClipCompressor(settings, vllm_config.model_config.model, embed_size)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load all weights but the selector's, which `ClipCompressor` has read."""
        return super().load_weights(pair for pair in weights if not pair[0].startswith(RELEASED_PREFIX))  # type: ignore[no-any-return]

    # --- from media to embeddings ------------------------------------------------------------------------------------

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Return one tensor per media item; of a clip its kept video and audio tokens, with position columns."""
        if CLIP_BUDGET not in kwargs:
            return super().embed_multimodal(**kwargs)
        lengths = kwargs[AUDIO_LENGTHS].flatten().cpu()
        layouts = [
            ClipLayout.of_patches(self.config, grid, seconds, mel_frames)
            for grid, seconds, mel_frames in zip(
                kwargs["video_grid_thw"].tolist(),
                kwargs["second_per_grid_ts"].flatten().tolist(),
                lengths.tolist(),
                strict=True,
            )
        ]
        budgets = [unpack_budget(budget) for budget in kwargs[CLIP_BUDGET].view(-1, len(RETENTION_KEYS))]
        inputs = ClipInputs(kwargs["pixel_values_videos"], kwargs["video_grid_thw"], kwargs[AUDIO_FEATURES], lengths)
        encoded = encode_clips(self, inputs, [len(layout) for layout in layouts], self._encoder_limit)
        return tuple(
            self.clip_compressor(video, audio, layout, budget)
            for (video, audio), layout, budget in zip(encoded, layouts, budgets, strict=True)
        )

    def embed_input_ids(
        self, input_ids: Tensor, multimodal_embeddings: Any = None, *, is_multimodal: Tensor | None = None
    ) -> Tensor:
        """Merge embeddings in prompt order.

        The base classes sort them into video and audio where labels of both alternate, so all media get one label.
        """
        if is_multimodal is not None:
            input_ids = input_ids.masked_fill(is_multimodal.to(input_ids.device), self.config.image_token_id)
        merged: Tensor = super().embed_input_ids(input_ids, multimodal_embeddings, is_multimodal=is_multimodal)
        return merged

    # --- positions ---------------------------------------------------------------------------------------------------

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> tuple[Tensor, int]:
        """Return all positions but those of the kept tokens of videos."""
        spans = [self._media_span(feature) for feature in mm_features]
        positions = pack(prompt_positions(len(input_tokens), spans, self._parts), self._parts)
        return positions, position_delta(positions)

    def recompute_mrope_positions(
        self, input_ids: Any, multimodal_embeddings: Any, mrope_positions: Tensor, num_computed_tokens: int
    ) -> tuple[list[Tensor], Tensor, int]:
        """Write the positions of the kept tokens that are being read, and remove the columns from their embeddings."""
        if not len(multimodal_embeddings):
            # vLLM calls this for every request at every step, also while it only generates.
            return [], mrope_positions, position_delta(mrope_positions)
        items = [detach_columns(rows, self._row_size) for rows in multimodal_embeddings]
        config = self.config
        labels = (config.video_token_id, config.audio_token_id, config.image_token_id)
        runs = media_runs(torch.as_tensor(input_ids).cpu(), labels)
        # Runs that were read in earlier steps are skipped.
        unread = [run for run in runs if run[1] > num_computed_tokens]
        positions = unpack(mrope_positions, self._parts)
        positions = write_kept_positions(positions, [columns for _, columns in items], unread, self._parts)
        positions = pack(positions, self._parts)
        return [rows for rows, _ in items], positions, position_delta(positions)

    def _media_span(self, feature: Any) -> MediaSpan:
        start, length, parts = feature.mm_position.offset, feature.mm_position.length, self._parts
        if feature.modality == "video":
            return MediaSpan(start, length, layout=item_layout(self.config, feature.data))
        if feature.modality == "audio":
            count = item_audio_tokens(self.config, feature.data)
            return MediaSpan(start, length, position_ids=(torch.arange(count) * parts).expand(3, count))
        merge = self.config.vision_config.spatial_merge_size
        frames, rows, columns = feature.data["image_grid_thw"].data.flatten().tolist()
        grid = (frames, rows // merge, columns // merge)
        position_ids = image_positions(grid, self.config.position_id_per_seconds, parts)
        return MediaSpan(start, length, position_ids=position_ids)


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Qwen25Info, dummy_inputs=DummyInputs)
class OmniSiftThinker(ClipThinker, Qwen2_5OmniThinkerForConditionalGeneration, SupportsMultiModalPruning):  # type: ignore[misc]  # vLLM is not installed when types are checked
    """Qwen2.5-Omni."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Qwen3Info, dummy_inputs=DummyInputs)
class OmniSiftQwen3Thinker(ClipThinker, Qwen3OmniMoeThinkerForConditionalGeneration, SupportsMultiModalPruning):  # type: ignore[misc]
    """Qwen3-Omni, whose rotary ids are fractions."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        use_fractions(self.language_model, _fractional)


def _fractional(rope: Any) -> FractionalRope:
    """Return the module that takes the place of vLLM's ``MRotaryEmbedding``, with its frequencies."""
    if not (rope.mrope_interleaved and rope.is_neox_style):
        raise UsageError(
            "the text model's rotary embedding is not that of Qwen3-Omni (mrope_interleaved); serve another"
        )
    frequencies = rope._compute_inv_freq(rope.base)
    return FractionalRope(frequencies, list(rope.mrope_section), rope.head_size, rope.mscale)
