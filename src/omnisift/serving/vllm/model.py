"""Qwen2.5-Omni's thinker in vLLM, with a compressor between its encoders and its language model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models.interfaces import SupportsMultiModal, SupportsMultiModalPruning
from vllm.model_executor.models.qwen2_5_omni_thinker import Qwen2_5OmniThinkerForConditionalGeneration
from vllm.multimodal import MULTIMODAL_REGISTRY

from omnisift.errors import UsageError
from omnisift.pipeline.clip_info import audio_tokens
from omnisift.serving.position_columns import detach_columns
from omnisift.serving.vllm.method import Method
from omnisift.serving.vllm.positions import Piece, laid_out, local_grid, offset_of, runs, written
from omnisift.serving.vllm.processor import (
    BUDGET,
    LENGTH,
    SOUND,
    DummyInputs,
    ProcessingInfo,
    Processor,
    span_from,
    span_of,
    unpack_budget,
)
from omnisift.serving.vllm.settings import Settings
from omnisift.vgas import RELEASED_PREFIX

SWITCH = 0.5
"""vLLM asks a model for positions only if its own pruning is on. Nothing reads the number."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=ProcessingInfo, dummy_inputs=DummyInputs)
class OmniSiftThinker(Qwen2_5OmniThinkerForConditionalGeneration, SupportsMultiModalPruning):  # type: ignore[misc]
    """vLLM's own model, which keeps its encoders and its language model; videos arrive as clips and leave shorter."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        """Raises `OmniSiftError` if the settings can't work with this checkpoint."""
        multimodal = vllm_config.model_config.multimodal_config
        if multimodal.video_pruning_rate:
            raise UsageError("--video-pruning-rate is vLLM's own pruning: leave it out and set retain of omnisift")
        if multimodal.get_limit_per_prompt("video") and not multimodal.get_limit_per_prompt("audio"):
            raise UsageError(
                "'audio': 0 in limit_mm_per_prompt keeps the audio encoder out, and videos have sound: leave it out"
            )
        multimodal.video_pruning_rate = SWITCH
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.width = self.config.text_config.hidden_size
        settings = Settings.of(vllm_config.model_config.hf_config)
        self.method = Method(settings, vllm_config.model_config.model, self.width)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """All but the selector's, which `Method` has read."""
        return super().load_weights(pair for pair in weights if not pair[0].startswith(RELEASED_PREFIX))  # type: ignore[no-any-return]

    # --- from media to embeddings ------------------------------------------------------------------------------------

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """One tensor for each item: of a clip, what stays of picture and sound, with places."""
        if BUDGET not in kwargs:
            return super().embed_multimodal(**kwargs)
        videos = self._process_video_input(self._parse_and_validate_video_input(**kwargs))
        lengths = kwargs[LENGTH].flatten().cpu()
        sounds = iter(self._sounds(kwargs[SOUND], lengths))
        return tuple(
            self.method(
                video, next(sounds) if mel else None, span_from(self.config, grid, pace, mel), unpack_budget(budget)
            )
            for video, grid, pace, mel, budget in zip(
                videos,
                kwargs["video_grid_thw"].tolist(),
                kwargs["second_per_grid_ts"].flatten().tolist(),
                lengths.tolist(),
                kwargs[BUDGET].view(-1, 3),
                strict=True,
            )
        )

    def _sounds(self, mel: Tensor, lengths: Tensor) -> Sequence[Tensor]:
        heard = lengths[lengths > 0]
        if not len(heard):
            return ()
        found: Sequence[Tensor] = self._process_audio_input({"input_features": mel, "audio_feature_lengths": heard})
        return found

    def embed_input_ids(
        self, input_ids: Tensor, multimodal_embeddings: Any = None, *, is_multimodal: Tensor | None = None
    ) -> Tensor:
        """Items lie in prompt order already: the plain merge, not the one that sorts picture from sound."""
        merged: Tensor = SupportsMultiModal.embed_input_ids(
            self, input_ids, multimodal_embeddings, is_multimodal=is_multimodal
        )
        return merged

    # --- positions ---------------------------------------------------------------------------------------------------

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> tuple[Tensor, int]:
        """All positions but those of kept tokens of videos."""
        position = laid_out(len(input_tokens), [self._piece(feature) for feature in mm_features])
        return position, offset_of(position)

    def recompute_mrope_positions(
        self, input_ids: Any, multimodal_embeddings: Any, mrope_positions: Tensor, num_computed_tokens: int
    ) -> tuple[list[Tensor], Tensor, int]:
        """Write the positions of the kept tokens that are being read, and take them off the embeddings."""
        parted = [detach_columns(rows, self.width) for rows in multimodal_embeddings]
        config = self.config
        labels = (config.video_token_index, config.audio_token_index, config.image_token_index)
        ahead = [run for run in runs(torch.as_tensor(input_ids).cpu(), labels) if run[1] > num_computed_tokens]
        position = written(mrope_positions, [places for _, places in parted], ahead)
        return [rows for rows, _ in parted], position, offset_of(position)

    def _piece(self, feature: Any) -> Piece:
        start, length = feature.mm_position.offset, feature.mm_position.length
        if feature.modality == "video":
            return Piece(start, length, span=span_of(self.config, feature.data))
        if feature.modality == "audio":
            count = audio_tokens(int(feature.data["audio_feature_lengths"].data))
            return Piece(start, length, local=torch.arange(count).expand(3, count))
        merge = self.config.vision_config.spatial_merge_size
        frames, rows, columns = feature.data["image_grid_thw"].data.flatten().tolist()
        grid = (frames, rows // merge, columns // merge)
        return Piece(start, length, local=local_grid(grid, self.config.position_id_per_seconds))
