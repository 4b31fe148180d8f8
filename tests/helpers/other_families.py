"""Tiny random hosts of the families whose adapters differ from a relative's by names and sizes, and their prompts.

`OTHERS` are these alone. Their names are those of the model types.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
class Windows(Family):
    """Some layers may see the latest kept tokens only."""

    kinds: tuple[str, ...] = ()
    """Kinds of layers, if there is more than one."""
    newlines: bool = False
    """Whether each row of tokens ends with one more."""
    images: int = 2
    """In a grid: a patch has the pixels of all of them."""

    def inputs(self, *rows: Row, pad: str = "left") -> dict[str, Any]:
        inputs = super().inputs(*rows, pad=pad)
        for name in ("pixel_values", "pixel_values_videos"):
            if name in inputs:
                inputs[name] = inputs[name][:, : 3 * self.images * PATCH * PATCH]
        return inputs

    def seen(self, keep: Tensor, inputs: dict[str, Any]) -> dict[str, Tensor]:
        full = super().seen(keep, inputs)["full_attention"]
        near = full.clone()
        for row, query in keep.nonzero().tolist():
            before = keep[row, : query + 1].nonzero()[:, 0]
            near[row, query, before[:-WINDOW]] = False
        every = {kind: near if kind.startswith("sliding") else full for kind in self.kinds}
        return every or {"full_attention": full}

    def _ids(self, row: Row) -> list[int]:
        if not self.newlines:
            return super()._ids(row)
        wider = [replace(part, width=part.width + 1) if isinstance(part, (Clip, Image)) else part for part in row]
        return super()._ids(wider)


@dataclass(frozen=True)
class Grids(Windows, OneRow):
    """Grids in one row of positions."""

    model_type: str = ""
    config: Any = None
    samples: int = 0
    """Of the waveform, in an audio token."""

    def inputs(self, *rows: Row, pad: str = "left") -> dict[str, Any]:
        inputs = Windows.inputs(replace(self, audio_rate=0), *rows, pad=pad)
        inputs |= models._padded([self._ids(row) for row in rows], pad)
        inputs.pop("mm_token_type_ids")
        heard = more_families._heard(rows)
        return inputs | (self._audio(heard) if heard and self.audio_rate else {})

    def _audio(self, parts: list[tuple[Row, int]]) -> dict[str, Tensor]:
        lengths = [row[number].sound * self.audio_rate * self.samples for row, number in parts]  # type: ignore[union-attr]
        values, real = torch.zeros(len(parts), max(lengths)), torch.zeros(len(parts), max(lengths)).long()
        for index, ((row, number), length) in enumerate(zip(parts, lengths, strict=True)):
            values[index, :length] = torch.randn(length, generator=families._random(row, number, -2))
            real[index, :length] = 1
        return {"input_values": values, "input_values_mask": real}


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
        "max_img_size": 64, "num_cls_tokens": 1, "num_registers": 1, "video_temporal_patch_size": 2,
        "summary_idxs": [0],
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


# --- relatives of Qwen's families ----------------------------------------------------------------------------------


def _cohere_compass() -> Any:
    rope = families._rope()["rope_parameters"]
    text = {
        **_TEXT, "num_hidden_layers": 4, "sliding_window": WINDOW, "layer_types": _LAYERS * 2,
        "rope_parameters": {"sliding_attention": rope, "full_attention": None}, "bos_token_id": 2,
    }  # fmt: skip
    return transformers.CohereCompassConfig(text_config=text, vision_config=families._DEEP_VISION, **families._IDS)


def _cosmos3_omni() -> Any:
    vision = {**families._DEEP_VISION, "model_type": "qwen3_vl_vision"}
    return transformers.Cosmos3OmniConfig(text_config=families._new_text(), vision_config=vision, **families._IDS)


def _cosmos3_edge() -> Any:
    vision = {**_ATTEND, "num_patches": 16}
    text = {**_TEXT, "head_dim": 16, **families._rope(), "bos_token_id": 2}
    return transformers.Cosmos3EdgeConfig(
        text_config=text, vision_config=vision, projector_hidden_size=24, initializer_range=0.2, **families._IDS
    )


def _hy_v4_vl() -> Any:
    text = {
        **_TEXT, "head_dim": 16, "moe_intermediate_size": 24, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 16, "v_head_dim": 16,
        "index_topk": 16, "index_head_dim": 16, "index_n_heads": 16, "hc_mult": 2, "bos_token_id": 2,
        **families._rope(),
    }  # fmt: skip
    vision = {**_ATTEND, "out_hidden_size": WIDTH, "max_image_size": 64}
    return transformers.HYV4VLConfig(text_config=text, vision_config=vision, **_IDS)


def _exaone4_5() -> Any:
    text = {**_TEXT, "sliding_window": WINDOW, "layer_types": _LAYERS * 2, "bos_token_id": 2, "model_type": "exaone4"}
    vision = {**families._VISION, "out_hidden_size": WIDTH, "fullatt_block_indexes": [0], "window_size": 32}
    vision["num_key_value_heads"] = 1
    return transformers.Exaone4_5_Config(text_config=text, vision_config=vision, **_IDS)


def _hyperclovax() -> Any:
    text = {**_TEXT, "model_type": "hyperclovax", "bos_token_id": 2}
    vision = {**families._VISION, "out_hidden_size": WIDTH, "fullatt_block_indexes": [0], "window_size": 32}
    vision["model_type"] = "qwen2_5_vl_vision"
    return transformers.HyperCLOVAXVisionV2Config(text_config=text, vision_config=vision, **_IDS)


def _lfm3_vl() -> Any:
    text = {
        **_TEXT, "model_type": "lfm3", "head_dim": 16, "sliding_window": WINDOW, "bos_token_id": 2, "conv_L_cache": 3,
        "layer_types": ["conv", "full_attention", "conv", "sliding_attention"],
    }  # fmt: skip
    vision = {**_ATTEND, "num_hidden_layers": 2, "num_key_value_heads": 1, "layer_types": ["conv", "full_attention"]}
    return transformers.Lfm3VlConfig(
        text_config=text, vision_config=vision, projector_hidden_size=24, tie_word_embeddings=False, **_IDS
    )


OTHERS = {
    str(family): family
    for family in (
        Grids("muse_spark", _muse_spark, timestamps=True, audio_rate=12, samples=16, kinds=tuple(_LAYERS), kernel=None),
        Grids("muse_glimmer", _muse_glimmer, timestamps=True, kinds=tuple(_LAYERS)),
        Dots("dots3_note", _dots3_note, images=1, kinds=("indexed_attention", "sliding_attention")),
        Nemotron(config=_nemotron),
        Windows("cohere_compass", _cohere_compass, timestamps=True, kinds=tuple(_LAYERS)),
        Windows("cosmos3_omni", _cosmos3_omni, timestamps=True),
        Windows("cosmos3_edge", _cosmos3_edge, timestamps=True, images=1),
        Windows("hy_v4_vl", _hy_v4_vl, newlines=True, images=1, kernel=None),
        Grids("exaone4_5", _exaone4_5, kinds=tuple(_LAYERS)),
        Grids("hyperclovax_vision_v2", _hyperclovax),
        Grids("lfm3_vl", _lfm3_vl, stateful=True),
    )
}  # fmt: skip
