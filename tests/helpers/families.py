"""A tiny random host of each family, of the real classes, and prompts in the order in which its processor writes them.

Encoders have weights of 0.2 and more: a selector then never finds two tokens whose scores differ by rounding alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from tests.helpers import models
from tests.helpers.models import (
    AUDIO,
    AUDIO_END,
    AUDIO_START,
    EOS,
    FIRST_WORD,
    IMAGE,
    MELS,
    PAD,
    PATCH,
    VIDEO,
    VISION_END,
    VISION_START,
    VOCABULARY,
    WIDTH,
    Image,
)
from torch import Tensor

from omnisift.models import adapter_class, adapter_for


@dataclass(frozen=True)
class Clip:
    """``frames`` grids of ``height`` x ``width`` tokens, and ``sound`` seconds of audio in families that hear."""

    frames: int
    height: int
    width: int
    sound: int = 0


@dataclass(frozen=True)
class Sound:
    """``sound`` seconds of audio without video."""

    sound: int


Row = list[int | Clip | Image | Sound]
"""An integer is a number of text tokens."""

_IDS = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": VISION_START,
        "vision_end_token_id": VISION_END}  # fmt: skip
_TEXT = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 4,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4096, "initializer_range": 0.2,
    "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": None,
}  # fmt: skip
_VISION = {
    "depth": 3, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": PATCH,
    "spatial_merge_size": 2, "temporal_patch_size": 2, "initializer_range": 0.2,
}  # fmt: skip
_NEW_VISION = {**_VISION, "out_hidden_size": WIDTH, "num_position_embeddings": 16}
_DEEP_VISION = {**_NEW_VISION, "deepstack_visual_indexes": [0, 1, 2]}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_HYBRID = {
    "layer_types": ["linear_attention", "full_attention"] * 2, "linear_num_value_heads": 2, "linear_num_key_heads": 1,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip


def _rope(**more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2], **more}}


def _new_text(**more: Any) -> dict[str, Any]:
    return {**_TEXT, "head_dim": 16, **_rope(mrope_interleaved=True), **more}


def _qwen2_vl() -> Any:
    vision = {**_VISION, "embed_dim": 16, "hidden_size": WIDTH, "mlp_ratio": 2}
    return transformers.Qwen2VLConfig(text_config={**_TEXT, **_rope()}, vision_config=vision, **_IDS)


def _qwen2_5_vl() -> Any:
    vision = {**_VISION, "out_hidden_size": WIDTH, "fullatt_block_indexes": [0], "window_size": 32}
    text = {**_TEXT, **_rope()}
    return transformers.Qwen2_5_VLConfig(text_config=text, vision_config={**vision, "tokens_per_second": 2}, **_IDS)


def _qwen3_vl() -> Any:
    return transformers.Qwen3VLConfig(text_config=_new_text(), vision_config=_DEEP_VISION, **_IDS)


def _qwen3_vl_moe() -> Any:
    text = _new_text(**_MOE, decoder_sparse_step=1)
    return transformers.Qwen3VLMoeConfig(text_config=text, vision_config=_DEEP_VISION, **_IDS)


def _qwen3_5(**more: Any) -> Any:
    text = {**_new_text(**_HYBRID, **more), **_rope(mrope_interleaved=True, partial_rotary_factor=1.0)}
    kind = transformers.Qwen3_5MoeConfig if more else transformers.Qwen3_5Config
    return kind(text_config=text, vision_config=_NEW_VISION, **_IDS)


def _qwen3_omni_moe() -> Any:
    audio = {
        "num_mel_bins": MELS, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "d_model": 16,
        "n_window": 50, "n_window_infer": 400, "output_dim": WIDTH, "downsample_hidden_size": 8,
        "max_source_positions": 1500, "initializer_range": 0.3,
    }  # fmt: skip
    config = transformers.Qwen3OmniMoeThinkerConfig(
        text_config={**_new_text(**_MOE)}, vision_config=_DEEP_VISION, audio_config=audio, audio_token_id=AUDIO,
        image_token_id=IMAGE, video_token_id=VIDEO, audio_start_token_id=AUDIO_START, audio_end_token_id=AUDIO_END,
        position_id_per_seconds=13, initializer_range=0.2,
    )  # fmt: skip
    config.vision_start_token_id, config.vision_end_token_id = VISION_START, VISION_END
    return config


@dataclass(frozen=True)
class Family:
    """How the tests make a host and its prompts."""

    model_type: str
    config: Callable[[], Any]
    timestamps: bool = False
    """Whether each frame stands behind its time in words."""
    audio_rate: int = 0
    """Audio tokens per second; 0 in families that do not hear."""
    turns: bool = False
    """Whether video and audio take turns of two seconds, rather than follow time frame by frame."""
    stateful: bool = False
    """Whether layers have a state instead of keys that can be masked."""
    mixes: bool = True
    """Whether the host reads an image and a video in one call."""
    beams: bool = True
    """Whether the host generates with beams for a prompt with video."""
    kernel: str | None = "sdpa"
    """Of the attention; None for hosts with parts that refuse it."""
    tolerance: float = 5e-5
    """Largest difference of logits, whose own size is about 5. A stateful host's padded batch differs from its own
    single prompts by 3e-4 and its cached steps from its own plain pass by 2e-4, with nothing attached."""

    def __str__(self) -> str:
        return self.model_type

    def model(self) -> Any:
        """The random host in float32, which never emits the end token."""
        torch.manual_seed(0)
        kind = getattr(transformers, adapter_class(self.model_type).model_class)
        model = kind._from_config(self.config(), attn_implementation=self.kernel)
        generation = model.generation_config
        generation.pad_token_id, generation.eos_token_id = PAD, None
        generation.suppress_tokens = list(range(FIRST_WORD))
        return model.eval()

    def inputs(self, *rows: Row, pad: str = "left") -> dict[str, Any]:
        """Model inputs of a batch. A row has the same tokens, pixels and sound alone and in any batch."""
        inputs: dict[str, Any] = models._padded([self._ids(row) for row in rows], pad)
        clips = [(row, number) for row in rows for number, part in enumerate(row) if isinstance(part, Clip)]
        images = [(row, number) for row in rows for number, part in enumerate(row) if isinstance(part, Image)]
        if clips:
            inputs |= {"video_grid_thw": _grids(clips), "pixel_values_videos": _pixels(clips)}
        if images:
            inputs |= {"image_grid_thw": _grids(images), "pixel_values": _pixels(images)}
        if not self.audio_rate:
            ids = inputs["input_ids"]
            return {**inputs, "mm_token_type_ids": (ids == IMAGE).int() + 2 * (ids == VIDEO).int()}
        heard = [(row, number) for row in rows for number, part in enumerate(row) if getattr(part, "sound", 0)]
        inputs["use_audio_in_video"] = any(row[number].sound for row, number in clips)  # type: ignore[union-attr]
        if clips:
            inputs["video_second_per_grid"] = torch.ones(len(clips))
        return inputs | (_mel(heard) if heard else {})

    def positions(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """[3, B, S]: rotary positions by the host's own rule."""
        core: Any = adapter_for(model).parts.core
        arguments = {
            "video_grid_thw": inputs.get("video_grid_thw"), "image_grid_thw": inputs.get("image_grid_thw"),
            "attention_mask": inputs["attention_mask"],
        }  # fmt: skip
        if self.audio_rate:
            mel = inputs.get("feature_attention_mask")
            arguments |= {
                "use_audio_in_video": inputs["use_audio_in_video"],
                "audio_seqlens": None if mel is None else mel.sum(dim=1),
                "second_per_grids": inputs.get("video_second_per_grid"),
            }
        else:
            arguments["mm_token_type_ids"] = inputs["mm_token_type_ids"]
        result: Tensor = core.get_rope_index(inputs["input_ids"], **arguments)[0]
        return result

    def seen(self, keep: Tensor, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """[B, S, S] bool for each kind of layer: which tokens a query sees if only ``keep`` [B, S] are there."""
        length = keep.shape[1]
        full = torch.ones(length, length).tril().bool() & keep[:, None, :]
        return {"full_attention": full | torch.eye(length).bool()}  # no query is left without a key

    def _ids(self, row: Row) -> list[int]:
        ids: list[int] = []
        for number, part in enumerate(row):
            if isinstance(part, Clip):
                ids += self._video(part, row, number)
            elif isinstance(part, Image):
                ids += [VISION_START, *[IMAGE] * (part.height * part.width), VISION_END]
            elif isinstance(part, Sound):
                ids += [AUDIO_START, *[AUDIO] * (part.sound * self.audio_rate), AUDIO_END]
            else:
                ids += _words(part, row, number)
        return ids

    def _video(self, clip: Clip, row: Row, number: int) -> list[int]:
        area = clip.height * clip.width
        if self.timestamps:
            frames = [
                [*_words(3, row, number, frame), VISION_START, *[VIDEO] * area, VISION_END]
                for frame in range(clip.frames)
            ]
            return [token for frame in frames for token in frame]
        if not self.audio_rate or not clip.sound:
            return [VISION_START, *[VIDEO] * (clip.frames * area), VISION_END]
        return [VISION_START, AUDIO_START, *self.interleaved(clip), AUDIO_END, VISION_END]

    def interleaved(self, clip: Clip, seconds: float = 1.0) -> list[int]:
        """Frames of so many seconds and audio, in the order of time; video first in each turn."""
        area, rate = clip.height * clip.width, self.audio_rate
        media = [(frame * seconds, 0, VIDEO) for frame in range(clip.frames) for _ in range(area)]
        media += [(step / rate, 1, AUDIO) for step in range(clip.sound * rate)]
        if self.turns:
            media = [(time // 2, kind, token) for time, kind, token in media]
        return [token for *_, token in sorted(media, key=lambda item: item[:2])]


def _random(row: Row, *numbers: int) -> torch.Generator:
    """Drawn by the content of the row, so that it is the same in any batch."""
    return torch.Generator().manual_seed(zlib.crc32(repr((row, numbers)).encode()))


def _words(count: int, row: Row, *numbers: int) -> list[int]:
    words: list[int] = torch.randint(FIRST_WORD, VOCABULARY, (count,), generator=_random(row, *numbers)).tolist()
    return words


def _grids(parts: list[tuple[Row, int]]) -> Tensor:
    found: list[Any] = [row[number] for row, number in parts]
    return torch.tensor([[getattr(part, "frames", 1), 2 * part.height, 2 * part.width] for part in found])


def _pixels(parts: list[tuple[Row, int]]) -> Tensor:
    return torch.cat([models._pixels(_grids([part]), _random(part[0], part[1], -1)) for part in parts])


def _mel(parts: list[tuple[Row, int]]) -> dict[str, Tensor]:
    """Spectrograms of 100 frames a second."""
    lengths = torch.tensor([100 * row[number].sound for row, number in parts])  # type: ignore[union-attr]
    features = torch.zeros(len(parts), MELS, int(lengths.max()))
    for index, (row, number) in enumerate(parts):
        length = int(lengths[index])
        features[index, :, :length] = torch.randn(MELS, length, generator=_random(row, number, -2))
    mask = (torch.arange(features.shape[-1]) < lengths[:, None]).long()
    return {"input_features": features, "feature_attention_mask": mask}


FAMILIES = {
    family.model_type: family
    for family in (
        Family("qwen2_5_omni_thinker", models.thinker_config, audio_rate=25, turns=True),
        Family("qwen3_omni_moe_thinker", _qwen3_omni_moe, audio_rate=13),
        Family("qwen2_vl", _qwen2_vl),
        Family("qwen2_5_vl", _qwen2_5_vl),
        Family("qwen3_vl", _qwen3_vl, timestamps=True),
        Family("qwen3_vl_moe", _qwen3_vl_moe, timestamps=True),
        Family("qwen3_5", _qwen3_5, timestamps=True, stateful=True, tolerance=5e-4),
        Family("qwen3_5_moe", lambda: _qwen3_5(**_MOE, shared_expert_intermediate_size=24), timestamps=True,
               stateful=True, tolerance=5e-4),
    )
}  # fmt: skip
