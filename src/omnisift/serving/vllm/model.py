"""Qwen2.5-Omni's thinker in vLLM, with a compressor between its encoders and its language model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.interfaces import SupportsMultiModal, SupportsMultiModalPruning
from vllm.model_executor.models.qwen2_5_omni_thinker import Qwen2_5OmniThinkerForConditionalGeneration
from vllm.multimodal import MULTIMODAL_REGISTRY

from omnisift.errors import UsageError
from omnisift.models.qwen2_5_omni import audio_tokens
from omnisift.serving.position_columns import detach_columns
from omnisift.serving.vllm.clip_compressor import ClipCompressor
from omnisift.serving.vllm.encoding import ClipInputs, encode_clips
from omnisift.serving.vllm.positions import (
    MediaSpan,
    image_positions,
    media_runs,
    position_delta,
    prompt_positions,
    write_kept_positions,
)
from omnisift.serving.vllm.processor import (
    AUDIO_FEATURES,
    AUDIO_LENGTHS,
    CLIP_BUDGET,
    DummyInputs,
    ProcessingInfo,
    Processor,
    item_layout,
    make_layout,
    unpack_budget,
)
from omnisift.serving.vllm.settings import RETENTION_KEYS, Settings
from omnisift.vgas import RELEASED_PREFIX

PRUNING_RATE = 0.5
"""vLLM asks a model for positions only if its own pruning is on. The number itself is not used."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=ProcessingInfo, dummy_inputs=DummyInputs)
class OmniSiftThinker(Qwen2_5OmniThinkerForConditionalGeneration, SupportsMultiModalPruning):  # type: ignore[misc]
    """vLLM's own model with its encoders and language model; videos arrive as clips and are compressed.

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
        self._embed_size = self.config.text_config.hidden_size
        self._encoder_limit = vllm_config.scheduler_config.max_num_encoder_input_tokens
        settings = Settings.from_config(vllm_config.model_config.hf_config)
        self.clip_compressor = ClipCompressor(settings, vllm_config.model_config.model, self._embed_size)

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
            make_layout(self.config, grid, seconds, mel_frames)
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
        """Merge embeddings in prompt order, without the base class' sorting into video and audio."""
        merged: Tensor = SupportsMultiModal.embed_input_ids(
            self, input_ids, multimodal_embeddings, is_multimodal=is_multimodal
        )
        return merged

    # --- positions ---------------------------------------------------------------------------------------------------

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> tuple[Tensor, int]:
        """Return all positions but those of the kept tokens of videos."""
        positions = prompt_positions(len(input_tokens), [self._media_span(feature) for feature in mm_features])
        return positions, position_delta(positions)

    def recompute_mrope_positions(
        self, input_ids: Any, multimodal_embeddings: Any, mrope_positions: Tensor, num_computed_tokens: int
    ) -> tuple[list[Tensor], Tensor, int]:
        """Write the positions of the kept tokens that are being read, and remove the columns from their embeddings."""
        if not len(multimodal_embeddings):
            # vLLM calls this for every request at every step, also while it only generates.
            return [], mrope_positions, position_delta(mrope_positions)
        items = [detach_columns(rows, self._embed_size) for rows in multimodal_embeddings]
        config = self.config
        labels = (config.video_token_index, config.audio_token_index, config.image_token_index)
        runs = media_runs(torch.as_tensor(input_ids).cpu(), labels)
        # Runs that were read in earlier steps are skipped.
        unread = [run for run in runs if run[1] > num_computed_tokens]
        positions = write_kept_positions(mrope_positions, [columns for _, columns in items], unread)
        return [rows for rows, _ in items], positions, position_delta(positions)

    def _media_span(self, feature: Any) -> MediaSpan:
        start, length = feature.mm_position.offset, feature.mm_position.length
        if feature.modality == "video":
            return MediaSpan(start, length, layout=item_layout(self.config, feature.data))
        if feature.modality == "audio":
            count = audio_tokens(int(feature.data["audio_feature_lengths"].data))
            return MediaSpan(start, length, position_ids=torch.arange(count).expand(3, count))
        merge = self.config.vision_config.spatial_merge_size
        frames, rows, columns = feature.data["image_grid_thw"].data.flatten().tolist()
        grid = (frames, rows // merge, columns // merge)
        position_ids = image_positions(grid, self.config.position_id_per_seconds)
        return MediaSpan(start, length, position_ids=position_ids)
