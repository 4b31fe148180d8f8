"""Models with random weights: what `omnisift verify` runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from omnisift.errors import UsageError
from omnisift.profiling.analytic import weight_bytes
from omnisift.profiling.sizes import host_config
from omnisift.verify.prompts import ClipShape, qwen2_5_omni_prompt, qwen3_omni_prompt

_MEDIA = ("audio", "image", "video", "audio_start", "audio_end", "vision_start", "vision_end")
"""Tokens of both families that only a processor writes."""


@dataclass(frozen=True)
class ModelSpec:
    """One model of the table: how it is made, and the clips that it reads."""

    name: str
    config: Callable[[], Any]
    """Return the configuration of the part that generates text."""
    model_class: str
    """Its class in Transformers."""
    prompt: Callable[[Any, ClipShape, int, torch.device, torch.dtype], dict[str, Any]]
    """Return the inputs of ``generate``, as the model's processor makes them for a clip with audio."""
    shallow: Callable[[Any], None]
    """Reduce the number of layers of a configuration, for checks in float32."""
    clips: tuple[ClipShape, ...] = (ClipShape(20), ClipShape(60), ClipShape(240))

    def missing_memory(self, memory: int) -> str | None:
        """Say why the model can't be built on a device with so many bytes; None if its weights leave a tenth of it."""
        weights = weight_bytes(self.config())
        if weights <= 0.9 * memory:
            return None
        return f"its weights take {weights / 1e9:.1f} GB in bfloat16, and the device has {memory / 1e9:.1f} GB"

    def build(
        self,
        device: torch.device,
        dtype: torch.dtype,
        attn_implementation: str = "sdpa",
        *,
        shallow: bool = False,
        seed: int = 0,
    ) -> Any:
        """Make the model with random weights, directly on the device.

        Args:
            device: where it computes.
            dtype: of its weights.
            attn_implementation: as in Transformers.
            shallow: whether to keep two layers of each part only.
            seed: of the weights.

        Returns:
            The model in evaluation mode; it never generates an end token.
        """
        import transformers

        config = self.config()
        if shallow:
            self.shallow(config)
        torch.manual_seed(seed)
        kind: Any = getattr(transformers, self.model_class)
        with torch.device(device):
            model = kind._from_config(config, dtype=dtype, attn_implementation=attn_implementation)
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0
        # Random weights would generate placeholders and marks of media as well.
        model.generation_config.suppress_tokens = [getattr(config, f"{name}_token_id") for name in _MEDIA]
        return model.eval()


def find_models(names: list[str], *, tiny: bool = False) -> list[ModelSpec]:
    """Return the models of these names, or the tiny ones of their families.

    Raises:
        UsageError: a name is not in the table.
    """
    for name in names:
        if name not in MODELS:
            raise UsageError(f"no model {name!r} to verify; choose from {', '.join(MODELS)}")
    found = [MODELS[name] for name in names]
    specs = [TINY_MODELS[spec.model_class] for spec in found] if tiny else found
    return list({spec.name: spec for spec in specs}.values())


def default_attention(device: torch.device) -> str:
    """Return FlashAttention on a GPU where it is installed, else sdpa."""
    from transformers.utils.import_utils import is_flash_attn_2_available

    return "flash_attention_2" if device.type == "cuda" and is_flash_attn_2_available() else "sdpa"


def _shallow_thinker(config: Any) -> None:
    config.text_config.num_hidden_layers = 2
    if getattr(config.text_config, "layer_types", None) is not None:
        config.text_config.layer_types = config.text_config.layer_types[:2]
    config.vision_config.depth = 2
    if hasattr(config.vision_config, "window_size"):
        config.vision_config.fullatt_block_indexes = [1]
    else:
        config.vision_config.deepstack_visual_indexes = [0, 1]
    config.audio_config.encoder_layers = config.audio_config.num_hidden_layers = 2


def _tiny_thinker() -> Any:
    """A Thinker with two narrow layers in each part."""
    from transformers import Qwen2_5OmniThinkerConfig

    kind: Any = Qwen2_5OmniThinkerConfig
    config = kind(
        text_config={
            "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]},
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "in_channels": 3, "patch_size": 4,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 32, "fullatt_block_indexes": [1],
            "out_hidden_size": 64,
        },
        audio_config={
            "num_mel_bins": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "d_model": 32,
            "n_window": 50, "max_source_positions": 1500, "output_dim": 64,
        },
        audio_token_index=100, image_token_index=101, video_token_index=102,
        audio_start_token_id=103, audio_end_token_id=104, position_id_per_seconds=25, seconds_per_chunk=2,
        pad_token_id=0, initializer_range=0.1,
    )  # fmt: skip
    config.vision_start_token_id, config.vision_end_token_id = 105, 106
    return config


def _tiny_qwen3() -> Any:
    """The same with experts, deepstack and the audio encoder of Qwen3-Omni."""
    from transformers import Qwen3OmniMoeThinkerConfig

    kind: Any = Qwen3OmniMoeThinkerConfig
    config = kind(
        text_config={
            "vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096, "num_experts": 4,
            "num_experts_per_tok": 2, "moe_intermediate_size": 48,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2],
                                "mrope_interleaved": True},
        },
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "in_channels": 3, "patch_size": 4,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1], "out_hidden_size": 64,
        },
        audio_config={
            "num_mel_bins": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "d_model": 32,
            "n_window": 50, "n_window_infer": 400, "downsample_hidden_size": 8, "max_source_positions": 1500,
            "output_dim": 64,
        },
        audio_token_id=100, image_token_id=101, video_token_id=102, audio_start_token_id=103, audio_end_token_id=104,
        position_id_per_seconds=13, initializer_range=0.1,
    )  # fmt: skip
    config.vision_start_token_id, config.vision_end_token_id = 105, 106
    return config


def _qwen3_omni_config() -> Any:
    config = host_config("qwen3-omni-30b-a3b")
    # As in the released checkpoints.
    config.audio_token_id, config.image_token_id, config.video_token_id = 151675, 151655, 151656
    config.audio_start_token_id, config.audio_end_token_id = 151669, 151670
    config.vision_start_token_id, config.vision_end_token_id = 151652, 151653
    return config


def _qwen2_5_omni(size: str) -> ModelSpec:
    def config() -> Any:
        config = host_config(size)
        config.vision_start_token_id, config.vision_end_token_id = 151652, 151653  # as in both released checkpoints
        return config

    return ModelSpec(
        name=f"qwen2.5-omni-{size}",
        config=config,
        model_class="Qwen2_5OmniThinkerForConditionalGeneration",
        prompt=qwen2_5_omni_prompt,
        shallow=_shallow_thinker,
    )


_QWEN3 = "Qwen3OmniMoeThinkerForConditionalGeneration"

TINY = ModelSpec(
    name="tiny",
    config=_tiny_thinker,
    model_class="Qwen2_5OmniThinkerForConditionalGeneration",
    prompt=qwen2_5_omni_prompt,
    shallow=_shallow_thinker,
    clips=(ClipShape(6, 4, 6), ClipShape(10, 4, 6)),
)
"""For tests of the kit on a CPU."""

TINY_QWEN3 = ModelSpec(
    name="tiny-qwen3-omni",
    config=_tiny_qwen3,
    model_class=_QWEN3,
    prompt=qwen3_omni_prompt,
    shallow=_shallow_thinker,
    clips=(ClipShape(8, 6, 8), ClipShape(12, 6, 8)),
)
"""Its clips are longer, with larger frames: for its few audio tokens, all methods then reach the budgets."""

TINY_MODELS = {spec.model_class: spec for spec in (TINY, TINY_QWEN3)}
"""Class -> the tiny model of its family."""

MODELS = {
    spec.name: spec
    for spec in (
        _qwen2_5_omni("7b"),
        _qwen2_5_omni("3b"),
        ModelSpec("qwen3-omni-30b-a3b", _qwen3_omni_config, _QWEN3, qwen3_omni_prompt, _shallow_thinker),
    )
}
"""All models that `omnisift verify` knows, by name. A new family needs a line here and a function for its prompt."""
