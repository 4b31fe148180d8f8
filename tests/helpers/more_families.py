"""Tiny random hosts of the families beside Qwen's, and prompts in the order in which their processors write them.

`FAMILIES` has all of them. Sliding windows are shorter than the prompts.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from tests.helpers import families, models
from tests.helpers.families import Clip, Family, Row
from tests.helpers.models import (
    AUDIO,
    AUDIO_END,
    AUDIO_START,
    IMAGE,
    MELS,
    PATCH,
    VIDEO,
    VISION_END,
    VISION_START,
    VOCABULARY,
    Image,
)
from torch import Tensor

WINDOW = 12
_TEXT = {key: value for key, value in families._TEXT.items() if key != "bos_token_id"}
_LAYERS = ["sliding_attention", "full_attention"]
_VISION = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "initializer_range": 0.2}
_GEMMA_IDS = {
    "image_token_id": IMAGE, "video_token_id": VIDEO, "audio_token_id": AUDIO, "boi_token_id": VISION_START,
    "eoi_token_id": VISION_END, "boa_token_id": AUDIO_START, "eoa_token_index": AUDIO_END, "initializer_range": 0.2,
}  # fmt: skip


def _parts(rows: tuple[Row, ...], wanted: Any) -> list[tuple[Row, int]]:
    return [(row, number) for row in rows for number, part in enumerate(row) if wanted(part)]


def _heard(rows: tuple[Row, ...]) -> list[tuple[Row, int]]:
    return _parts(rows, lambda part: getattr(part, "sound", 0))


@dataclass(frozen=True)
class OneRow(Family):
    """Positions with one row; the audio of a clip, if any, follows its frames."""

    def positions(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        return torch.arange(inputs["input_ids"].shape[1]).expand(len(inputs["input_ids"]), -1)

    def _video(self, clip: Clip, row: Row, number: int) -> list[int]:
        frames = families.Family._video(self, Clip(clip.frames, clip.height, clip.width), row, number)
        heard = [AUDIO_START, *[AUDIO] * (clip.sound * self.audio_rate), AUDIO_END]
        return [*frames, *heard] if clip.sound and self.audio_rate else frames

    def types(self, ids: Tensor) -> Tensor:
        """[B, S]: ``mm_token_type_ids``."""
        return (ids == IMAGE).int() + 2 * (ids == VIDEO).int() + 3 * (ids == AUDIO).int()


@dataclass(frozen=True)
class Gemma4(OneRow):
    """Inputs for every layer, keys shared by the last two layers; some models let frames see themselves both ways."""

    model_type: str = "gemma4"
    config: Any = None
    timestamps: bool = True
    audio_rate: int = 25
    kernel: str | None = None
    tolerance: float = 3e-4
    both_ways: bool = False
    merge: int = 2
    everywhere: bool = False
    """Whether frames see themselves both ways in all layers, beyond the window."""

    def __str__(self) -> str:
        return f"{self.model_type}{'-both-ways' * (self.both_ways and not self.everywhere)}"

    def inputs(self, *rows: Row, pad: str = "left") -> dict[str, Any]:
        inputs: dict[str, Any] = models._padded([self._ids(row) for row in rows], pad)
        inputs["mm_token_type_ids"] = self.types(inputs["input_ids"])
        if clips := _parts(rows, lambda part: isinstance(part, Clip)):
            pixels, places = self._patches(clips)
            frames = torch.tensor([row[number].frames for row, number in clips])  # type: ignore[union-attr]
            inputs |= {"pixel_values_videos": pixels, "video_position_ids": places, "num_frames_per_video": frames}
        if images := _parts(rows, lambda part: isinstance(part, Image)):
            pixels, places = self._patches(images)
            inputs |= {"pixel_values": pixels, "image_position_ids": places}
        return inputs | (self._audio(_heard(rows)) if _heard(rows) else {})

    def _audio(self, parts: list[tuple[Row, int]]) -> dict[str, Tensor]:
        mel = families._mel(parts)
        step = 1 if self.merge > 1 else 4
        return {
            "input_features": mel["input_features"].transpose(1, 2)[:, ::step],
            "input_features_mask": mel["feature_attention_mask"][:, ::step].bool(),
        }

    def _patches(self, parts: list[tuple[Row, int]]) -> tuple[Tensor, Tensor]:
        """[n, patches, C] values, and [n, patches, 2] their columns and rows; padding is at -1."""
        found: list[Any] = [row[number] for row, number in parts]
        most = max(part.height * part.width for part in found) * self.merge**2
        pixels, places = [], []
        for part, (row, number) in zip(found, parts, strict=True):
            frames, area = getattr(part, "frames", 1), part.height * part.width * self.merge**2
            y, x = torch.meshgrid(
                *(torch.arange(side * self.merge) for side in (part.height, part.width)), indexing="ij"
            )
            place = torch.full((most, 2), -1)
            place[:area] = torch.stack([x.flatten(), y.flatten()], dim=1)
            values = torch.zeros(frames, most, 3 * PATCH * PATCH)
            values[:, :area] = torch.rand(frames, area, 3 * PATCH**2, generator=families._random(row, number, -1))
            pixels.append(values)
            places.append(place.expand(frames, -1, -1))
        return torch.cat(pixels), torch.cat(places)

    def seen(self, keep: Tensor, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """By loops: a window counts kept tokens."""
        rows, length = keep.shape
        full = torch.eye(length).bool().repeat(rows, 1, 1)
        near = full.clone()
        visual = (inputs["mm_token_type_ids"] % 3 > 0).tolist()
        for row in range(rows):
            rank, block, blocks = [], [], 0
            for place in range(length):
                blocks += visual[row][place] and not (place and visual[row][place - 1])
                block.append(blocks if visual[row][place] else -place - 1)
                rank.append(sum(keep[row, :place].tolist()))
            for query, key in torch.cartesian_prod(*[keep[row].nonzero()[:, 0]] * 2).tolist():
                causal, inside = key <= query, rank[key] > rank[query] - WINDOW
                same = self.both_ways and block[query] == block[key]
                full[row, query, key] |= causal or (same and self.everywhere)
                near[row, query, key] |= (causal and inside) or (same and (inside or self.everywhere))
        return {"full_attention": full, "sliding_attention": near}


def _gemma4(both_ways: bool = False) -> Any:
    text = {
        **_TEXT, "num_hidden_layers": 6, "head_dim": 16, "global_head_dim": 16, "sliding_window": WINDOW,
        "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY, "num_kv_shared_layers": 2,
        "layer_types": _LAYERS * 3, "use_bidirectional_attention": "vision" if both_ways else None,
    }  # fmt: skip
    vision = {
        **_VISION, "num_hidden_layers": 1, "num_key_value_heads": 2, "head_dim": 8, "patch_size": PATCH,
        "pooling_kernel_size": 2, "position_embedding_size": 64,
    }  # fmt: skip
    audio = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "subsampling_conv_channels": [16, 4],
        "output_proj_dims": 16, "initializer_range": 0.2,
    }  # fmt: skip
    return transformers.Gemma4Config(text_config=text, vision_config=vision, audio_config=audio, **_GEMMA_IDS)


def _gemma4_unified() -> Any:
    text = {
        **_TEXT, "head_dim": 16, "global_head_dim": 16, "sliding_window": WINDOW, "layer_types": _LAYERS * 2,
        "use_bidirectional_attention": "vision",
    }  # fmt: skip
    vision = {
        "patch_size": PATCH, "pooling_kernel_size": 1, "mm_embed_dim": 16, "mm_posemb_size": 32, "output_proj_dims": 16,
        "initializer_range": 0.2,
    }  # fmt: skip
    audio = {"audio_embed_dim": MELS, "initializer_range": 0.2}
    return transformers.Gemma4UnifiedConfig(text_config=text, vision_config=vision, audio_config=audio, **_GEMMA_IDS)


@dataclass(frozen=True)
class Glm(Family):
    """A video stands at the ids of images; the time of a frame follows it.

    The host counts all of these ids against the features of the images and against those of the videos.
    """

    timestamps: bool = True
    mixes: bool = False
    beams: bool = False

    def inputs(self, *rows: Row, pad: str = "left") -> dict[str, Any]:
        inputs = super().inputs(*rows, pad=pad)
        inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["input_ids"] == VIDEO, IMAGE)
        return inputs


def _glm(kind: str, **more: Any) -> Any:
    text = {**_TEXT, "head_dim": 16, **families._rope(partial_rotary_factor=1.0), **more}
    vision = {**families._VISION, "out_hidden_size": models.WIDTH, "image_size": 32, "rms_norm_eps": 1e-5}
    ids = {**families._IDS, "image_start_token_id": VISION_START, "image_end_token_id": VISION_END}
    if kind == "Glm46V":
        text["model_type"], vision["model_type"] = "glm4v_text", "glm4v_vision"
    return getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision, **ids)


@dataclass(frozen=True)
class Llava(OneRow):
    """Square frames of 2 x 2 tokens and a newline. A batch has equally many frames in each video."""

    model_type: str = "llava_onevision"
    config: Any = None

    def inputs(self, *rows: Row, pad: str = "left") -> dict[str, Any]:
        inputs: dict[str, Any] = models._padded([self._ids(row) for row in rows], pad)
        if clips := _parts(rows, lambda part: isinstance(part, Clip)):
            inputs["pixel_values_videos"] = torch.stack([self._pixels(row, number) for row, number in clips])
        if images := _parts(rows, lambda part: isinstance(part, Image)):
            inputs["pixel_values"] = torch.stack([self._pixels(row, number)[:2] for row, number in images])
            inputs["image_sizes"] = torch.tensor([[16, 16]] * len(images))
        return inputs

    def _pixels(self, row: Row, number: int) -> Tensor:
        return torch.randn(self._frames(row[number]), 3, 16, 16, generator=families._random(row, number, -1))

    def _frames(self, part: Any) -> int:
        return 5 if getattr(part, "frames", 4) == 5 else 4

    def _video(self, clip: Clip, row: Row, number: int) -> list[int]:
        return [VIDEO] * (4 * self._frames(clip) + 1)

    def _ids(self, row: Row) -> list[int]:
        # An image has the tokens of its base and of one part, and a newline for each row of that part.
        sized = [Image(1, _image_tokens()) if isinstance(part, Image) else part for part in row]
        return super()._ids(sized)


@functools.cache
def _image_tokens() -> int:
    features = (
        Llava(config=_llava)
        .model()
        .model.get_image_features(torch.zeros(1, 2, 3, 16, 16), torch.tensor([[16, 16]]), return_dict=True)
    )
    return len(features.pooler_output[0])


def _llava() -> Any:
    vision = transformers.SiglipVisionConfig(**{**_VISION, "num_hidden_layers": 2, "patch_size": 4, "image_size": 16})
    return transformers.LlavaOnevisionConfig(
        text_config=transformers.Qwen2Config(**_TEXT), vision_config=vision, image_token_id=IMAGE, video_token_id=VIDEO,
        image_grid_pinpoints=[[16, 16]],
    )  # fmt: skip


_MOE = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}  # fmt: skip
MORE = {
    str(family): family
    for family in (
        Gemma4(config=_gemma4),
        Gemma4(config=lambda: _gemma4(both_ways=True), both_ways=True),
        Gemma4("gemma4_unified", _gemma4_unified, both_ways=True, everywhere=True, merge=1),
        Glm("glm4v", lambda: _glm("Glm4v")),
        Glm("glm4v_moe", lambda: _glm("Glm4vMoe", **_MOE)),
        Glm("glm46v", lambda: _glm("Glm46V")),
        Glm("glm_ocr", lambda: _glm("GlmOcr")),
        Llava(config=_llava),
    )
}
FAMILIES = {**families.FAMILIES, **MORE}
