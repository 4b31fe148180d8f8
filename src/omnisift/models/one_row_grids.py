"""Adapters for hosts with ``video_grid_thw`` whose language model has one row of positions."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.errors import UnsupportedCall
from omnisift.models.adapter import Prompt
from omnisift.models.grid_adapter import GridAdapter
from omnisift.tokens import Modality


class OneRowGridAdapter(GridAdapter):
    """Clips from grids, places in one row. The attention of the encoders is not read."""

    rotary_rows: ClassVar[int] = 1
    supplies: ClassVar[frozenset[str]] = frozenset()

    def token_grids(self, patches: Tensor) -> Tensor:
        """[V, 3] int64: a token is of ``merge_size`` or ``spatial_merge_size`` patches each way."""
        vision = self.config.vision_config
        merge = int(getattr(vision, "merge_size", None) or vision.spatial_merge_size)
        return patches // patches.new_tensor([1, merge, merge])


class Exaone45Adapter(OneRowGridAdapter):
    """EXAONE 4.5: a video is one run of tokens. A sliding window counts the tokens that were kept."""

    model_types: ClassVar[frozenset[str]] = frozenset({"exaone4_5"})
    model_class: ClassVar[str] = "Exaone4_5_ForConditionalGeneration"


class HyperClovaXAdapter(OneRowGridAdapter):
    """HyperCLOVA X SEED Vision: a video is one run of tokens."""

    model_types: ClassVar[frozenset[str]] = frozenset({"hyperclovax_vision_v2"})
    model_class: ClassVar[str] = "HyperCLOVAXVisionV2ForConditionalGeneration"


class Lfm3VLAdapter(OneRowGridAdapter):
    """LFM3-VL: some layers are convolutions over the tokens that were kept."""

    model_types: ClassVar[frozenset[str]] = frozenset({"lfm3_vl"})
    model_class: ClassVar[str] = "Lfm3VlForConditionalGeneration"
    release: ClassVar[str] = "5.23"


class VideoLlama3Adapter(OneRowGridAdapter):
    """VideoLLaMA 3: frames behind their times, as long as the processor drops nothing of them."""

    model_types: ClassVar[frozenset[str]] = frozenset({"video_llama_3"})
    model_class: ClassVar[str] = "VideoLlama3ForConditionalGeneration"
    geometry: ClassVar[frozenset[str]] = frozenset({"grid_thw", "merge_sizes"})
    times_in_words: ClassVar[bool] = True

    def _grids(self, prompt: Prompt) -> Tensor | None:
        """[V, 3] int64, with the merge size of each video."""
        mask = prompt.tensor("video_compression_mask")
        if mask is not None and not bool(mask.all()):
            raise UnsupportedCall(
                "video_compression_mask drops tokens, so frames have no grid: pass use_token_compression=False to the "
                "processor, and let the compressor choose"
            )
        given = prompt.tensor("video_grid_thw"), prompt.tensor("video_merge_sizes")
        grids, merge = (
            given if given[0] is not None else (prompt.encoded_with("grid_thw"), prompt.encoded_with("merge_sizes"))
        )
        if grids is None or merge is None:
            return None
        return torch.cat([grids[:, :1], grids[:, 1:] // merge.view(-1, 1)], dim=1)


class ChunkedGridAdapter(OneRowGridAdapter):
    """Hosts whose grids are of chunks of a video, each behind its time.

    They are not told which chunks are of one video. Those of one size that follow one another in a prompt count as one.
    """

    times_in_words: ClassVar[bool] = True

    def _grids(self, prompt: Prompt) -> Tensor | None:
        """[V, 3] int64, of the chunks of each video together."""
        chunks = super()._grids(prompt)
        if chunks is None or not len(chunks):
            return chunks
        # A chunk is of the first row up to whose end there are as many tokens as up to its own; rows may be repeated.
        sizes, counts = chunks.prod(dim=1), (prompt.modality == Modality.VIDEO).sum(dim=1)
        times = max(1, int(counts.sum()) // max(1, int(sizes.sum())))
        row = torch.searchsorted(counts[::times].cumsum(0), sizes.cumsum(0))
        key = torch.cat([row[:, None], chunks[:, 1:]], dim=1)
        starts = torch.ones(len(chunks), dtype=torch.bool)
        starts[1:] = (key[1:] != key[:-1]).any(dim=1)
        frames = torch.zeros(int(starts.sum()), dtype=torch.int64).index_add_(0, starts.cumsum(0) - 1, chunks[:, 0])
        return torch.cat([frames[:, None], chunks[starts, 1:]], dim=1)


class KimiK25Adapter(ChunkedGridAdapter):
    """Kimi K2.5 and K2.6: the images of a chunk are pooled, so a chunk is a frame.

    Up to Transformers 5.23 the host fails on chunks of several images.
    """

    model_types: ClassVar[frozenset[str]] = frozenset({"kimi_k25"})
    model_class: ClassVar[str] = "Kimi_K25ForConditionalGeneration"
    release: ClassVar[str] = "5.24"

    def token_grids(self, patches: Tensor) -> Tensor:
        """[V, 3] int64: one frame of tokens for each chunk."""
        merge = patches.new_tensor(list(self.config.vision_config.merge_kernel_size))
        return torch.cat([torch.ones_like(patches[:, :1]), patches[:, 1:] // merge], dim=1)
