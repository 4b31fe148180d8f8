"""Tiny random hosts of the families whose adapters differ from a relative's by names and sizes, and their prompts.

`FAMILIES` has these and all others. Their names are those of the model types; `OTHERS` are these alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from tests.helpers import families, models, more_families
from tests.helpers.families import Clip, Family, Row
from tests.helpers.models import AUDIO, IMAGE, MELS, PATCH, VIDEO, WIDTH, Image
from tests.helpers.more_families import WINDOW, OneRow
from torch import Tensor

_TEXT, _LAYERS = more_families._TEXT, more_families._LAYERS
_IDS = {"image_token_id": IMAGE, "video_token_id": VIDEO}
_PATCHES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
_ATTEND = {**_PATCHES, "patch_size": PATCH, "initializer_range": 0.2}


@dataclass(frozen=True)
class Grids(OneRow):
    """Grids in one row of positions. Some layers may see the latest kept tokens only."""

    model_type: str = ""
    config: Any = None
    kinds: tuple[str, ...] = ()
    """Kinds of layers, if there is more than one."""
    samples: int = 0
    """Of the waveform, in an audio token."""
    images: int = 2
    """In a grid: a patch has the pixels of all of them."""

    def inputs(self, *rows: Row, pad: str = "left") -> dict[str, Any]:
        silent = Family.inputs
        inputs = silent(Grids(self.model_type, self.config), *rows, pad=pad)
        inputs |= models._padded([self._ids(row) for row in rows], pad)
        inputs.pop("mm_token_type_ids")
        for name in ("pixel_values", "pixel_values_videos"):
            if name in inputs:
                inputs[name] = inputs[name][:, : 3 * self.images * PATCH * PATCH]
        heard = more_families._heard(rows)
        return inputs | (self._audio(heard) if heard and self.audio_rate else {})

    def _audio(self, parts: list[tuple[Row, int]]) -> dict[str, Tensor]:
        lengths = [row[number].sound * self.audio_rate * self.samples for row, number in parts]  # type: ignore[union-attr]
        values, real = torch.zeros(len(parts), max(lengths)), torch.zeros(len(parts), max(lengths)).long()
        for index, ((row, number), length) in enumerate(zip(parts, lengths, strict=True)):
            values[index, :length] = torch.randn(length, generator=families._random(row, number, -2))
            real[index, :length] = 1
        return {"input_values": values, "input_values_mask": real}

    def seen(self, keep: Tensor, inputs: dict[str, Any]) -> dict[str, Tensor]:
        full = super().seen(keep, inputs)["full_attention"]
        near = full.clone()
        for row, query in keep.nonzero().tolist():
            before = keep[row, : query + 1].nonzero()[:, 0]
            near[row, query, before[:-WINDOW]] = False
        every = {kind: near if kind.startswith("sliding") else full for kind in self.kinds}
        return every or {"full_attention": full}


_MUSE_TEXT = {
    **_TEXT, "head_dim": 16, "sliding_window": WINDOW, "layer_types": _LAYERS * 2, "layer_rope_theta": [10000.0, 0] * 2,
}  # fmt: skip
_MUSE_VISION = {
    **_PATCHES, "patch_size": PATCH, "pos_emb_height": 8, "pos_emb_width": 8, "max_position_embeddings": 64,
}  # fmt: skip
_MUSE = {**_IDS, "out_hidden_size": 64, "projector_hidden_size": 24}


def _muse_spark() -> Any:
    experts = {"moe_intermediate_size": 24, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_hidden_size": 16}
    audio = {
        "patch_sizes": [4, 4], "hidden_sizes": [8, 16], "depths": [1, 1], "num_hidden_layers": 2, "conv_kernel_size": 3,
        "out_hidden_size": WIDTH, "initializer_range": 0.2,
    }  # fmt: skip
    return transformers.MuseSparkConfig(
        text_config={**_MUSE_TEXT, **experts}, vision_config=_MUSE_VISION, audio_config=audio, audio_token_id=AUDIO,
        **_MUSE,
    )  # fmt: skip


def _muse_glimmer() -> Any:
    return transformers.MuseGlimmerConfig(text_config=_MUSE_TEXT, vision_config=_MUSE_VISION, **_MUSE)


@dataclass(frozen=True)
class Dots(Grids):
    """Spectrograms of 100 frames a second, of which eight are a token."""

    audio_rate: int = 12

    def _audio(self, parts: list[tuple[Row, int]]) -> dict[str, Tensor]:
        lengths = torch.tensor([row[number].sound * self.audio_rate * 8 for row, number in parts])  # type: ignore[union-attr]
        mel = families._mel(parts)["input_features"][..., : int(lengths.max())]
        return {"input_features": mel, "chunk_sample_lengths": 160 * lengths}


def _dots3_note() -> Any:
    text = {
        **_TEXT, "num_key_value_heads": 2, "moe_intermediate_size": 24, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
        "head_dim": 16, "index_topk": 16, "index_head_dim": 16, "index_n_heads": 16, "sliding_window": WINDOW,
        "shared_experts_intermediate_size": 24, "layer_types": ["indexed_attention", "sliding_attention"] * 2,
        "swa_num_attention_heads": 2, "swa_num_key_value_heads": 2, "swa_q_lora_rank": 16, "swa_kv_lora_rank": 16,
        "swa_head_dim": 16, "swa_qk_nope_head_dim": 8, "swa_v_head_dim": 16,
    }  # fmt: skip
    vision = {
        **_ATTEND, "num_hidden_layers": 2, "mlp_layer_types": ["dense", "dense"], "adapter_in_dim": 16,
        "adapter_out_dim": WIDTH,
    }  # fmt: skip
    audio = {
        **_PATCHES, "feature_size": MELS, "downsample_hidden_size": 8, "adapter_input_size": 16,
        "adapter_out_dim": WIDTH, "initializer_range": 0.2,
    }  # fmt: skip
    return transformers.Dots3NoteConfig(
        text_config=text, vision_config=vision, audio_config=audio, audio_token_id=AUDIO, **_IDS
    )


def _frames(part: Any) -> int:
    """In a batch of hosts that take equally many frames of each video."""
    return 5 if part.frames == 5 else 4


@dataclass(frozen=True)
class Nemotron(OneRow):
    """Tubelets of 2 x 3 tokens at image ids. A batch has equally many in each video, and no images beside them."""

    model_type: str = "nemotron_h_omni"
    config: Any = None
    timestamps: bool = True
    audio_rate: int = 12
    stateful: bool = True
    mixes: bool = False
    tolerance: float = 1e-3
    """Cached steps of the host alone differ from its own plain pass by up to 4e-4."""

    def model(self) -> Any:
        model = super().model()
        model.vision_model.config.torch_dtype = torch.float32  # the host converts pixels to it
        return model

    def inputs(self, *rows: Row, pad: str = "left") -> dict[str, Any]:
        inputs: dict[str, Any] = models._padded([self._ids(row) for row in rows], pad)
        clips = more_families._parts(rows, lambda part: isinstance(part, Clip))
        inputs["pixel_values_videos"] = torch.stack([
            torch.randn(_frames(row[number]), 6, 16, 24, generator=families._random(row, number, -1))
            for row, number in clips
        ])  # fmt: skip
        if heard := more_families._heard(rows):
            lengths = torch.tensor([96 * row[number].sound - 1 for row, number in heard])  # type: ignore[union-attr]
            mel = families._mel(heard)["input_features"].transpose(1, 2)[:, : int(lengths.max())]
            real = torch.arange(mel.shape[1]) < lengths[:, None]
            inputs |= {"input_features": mel * real[..., None], "input_features_mask": real}
        return inputs

    def _video(self, clip: Clip, row: Row, number: int) -> list[int]:
        sized = Clip(_frames(clip), 2, 3, clip.sound)
        return [IMAGE if token == VIDEO else token for token in super()._video(sized, row, number)]


def _nemotron() -> Any:
    text = {
        "vocab_size": models.VOCABULARY, "hidden_size": WIDTH, "num_attention_heads": 2, "head_dim": 16,
        "layers_block_type": ["mamba", "attention", "mlp"] * 2, "num_key_value_heads": 1, "intermediate_size": 48,
        "ssm_state_size": 8, "mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 2, "chunk_size": 16,
        "initializer_range": 0.2, "use_mamba_kernels": False, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
        "max_position_embeddings": 4096,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": PATCH, "image_size": 16,
        "max_img_size": 64, "num_cls_tokens": 1, "num_registers": 1, "video_temporal_patch_size": 2, "summary_idxs": [0],
    }  # fmt: skip
    audio = {
        **_PATCHES, "subsampling_conv_channels": 8, "num_mel_bins": MELS, "projection_hidden_size": 24,
        "projection_bias": False, "dropout": 0.0, "layerdrop": 0.0, "activation_dropout": 0.0, "attention_dropout": 0.0,
        "initializer_range": 0.3,
    }  # fmt: skip
    return transformers.NemotronH_Omni_Reasoning_V3_Config(
        text_config=text, vision_config=vision, audio_config=audio, projector_hidden_size=24, vision_hidden_size=16,
        audio_token_id=AUDIO, **_IDS,
    )  # fmt: skip


OTHERS = {
    str(family): family
    for family in (
        Grids("muse_spark", _muse_spark, timestamps=True, audio_rate=12, samples=16, kinds=tuple(_LAYERS), kernel=None),
        Grids("muse_glimmer", _muse_glimmer, timestamps=True, kinds=tuple(_LAYERS)),
        Dots("dots3_note", _dots3_note, images=1, kinds=("indexed_attention", "sliding_attention")),
        Nemotron(config=_nemotron),
    )
}  # fmt: skip
FAMILIES = {**more_families.FAMILIES, **OTHERS}
