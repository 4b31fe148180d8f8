"""Models with random weights, and prompts for them without media files: what `omnisift verify` runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnisift.errors import UsageError
from omnisift.models.qwen2_5_omni import audio_tokens
from omnisift.profiling.sizes import host_config

IMAGES_PER_SECOND, MAX_IMAGES = 2.0, 256
"""How `Pipeline.ask` samples a video."""
_MEL_PER_SECOND = 100
_FIRST_WORD = 20
"""Token ids below it have a meaning in some vocabularies."""


@dataclass(frozen=True)
class ClipShape:
    """Size of a clip that is made of random numbers."""

    seconds: float
    height: int = 13
    """Video tokens along a frame's height; 13 x 23 is a 16:9 video at the paper's largest image."""
    width: int = 23

    @property
    def frames(self) -> int:
        """Time steps of the token grid; each covers two images."""
        return int(min(self.seconds * IMAGES_PER_SECOND, MAX_IMAGES)) // 2

    @property
    def seconds_per_frame(self) -> float:
        """Time between two frames."""
        return self.seconds / self.frames

    @property
    def mel(self) -> int:
        """Frames of the spectrogram."""
        return int(self.seconds * _MEL_PER_SECOND)


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
        return model.eval()


def find_models(names: list[str]) -> list[ModelSpec]:
    """Return the models of these names.

    Raises:
        UsageError: a name is not in the table.
    """
    for name in names:
        if name not in MODELS:
            raise UsageError(f"no model {name!r} to verify; choose from {', '.join(MODELS)}")
    return [MODELS[name] for name in dict.fromkeys(names)]


def default_attention(device: torch.device) -> str:
    """Return FlashAttention on a GPU where it is installed, else sdpa."""
    from transformers.utils.import_utils import is_flash_attn_2_available

    return "flash_attention_2" if device.type == "cuda" and is_flash_attn_2_available() else "sdpa"


def qwen2_5_omni_prompt(
    config: Any, clip: ClipShape, text: int, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Return a prompt of Qwen2.5-Omni about one clip with audio.

    Args:
        config: of the Thinker.
        clip: size of the clip.
        text: tokens of the question and the chat template; half of them precede the clip.
        device: of the inputs.
        dtype: of pixels and spectrogram.
    """
    random = torch.Generator().manual_seed(round(clip.seconds))
    words = torch.randint(_FIRST_WORD, _FIRST_WORD + 50, (text,), generator=random)
    before, after = words[: text // 2], words[text // 2 :]
    marks = [config.vision_start_token_id, config.audio_start_token_id]
    ends = [config.audio_end_token_id, config.vision_end_token_id]
    ids = torch.cat([before, torch.tensor(marks), _interleaved(config, clip), torch.tensor(ends), after])[None]
    vision = config.vision_config
    merge = vision.spatial_merge_size
    grid = torch.tensor([[clip.frames, merge * clip.height, merge * clip.width]])
    patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "video_grid_thw": grid,
        "video_second_per_grid": torch.tensor([clip.seconds_per_frame]),
        "feature_attention_mask": torch.ones(1, clip.mel, dtype=torch.int64),
    }
    moved: dict[str, Any] = {name: value.to(device) for name, value in inputs.items()}
    moved["pixel_values_videos"] = _moving_pixels(grid[0].tolist(), patch, device).to(dtype)
    mel = torch.randn(1, config.audio_config.num_mel_bins, clip.mel, device=device)
    return {**moved, "input_features": mel.to(dtype), "use_audio_in_video": True}


def _interleaved(config: Any, clip: ClipShape) -> Tensor:
    """[N] ids of the clip's tokens in the processor's order: the video of two seconds, then their audio, and so on."""
    steps = config.position_id_per_seconds * config.seconds_per_chunk
    position = (torch.arange(clip.frames) * clip.seconds_per_frame * config.position_id_per_seconds).long()
    video_chunk = (position // steps).repeat_interleave(clip.height * clip.width)
    audio_chunk = torch.arange(audio_tokens(clip.mel)) // steps
    # Video precedes audio within a chunk.
    order = torch.argsort(torch.cat([2 * video_chunk, 2 * audio_chunk + 1]), stable=True)
    ids = torch.full((len(order),), config.audio_token_id)
    ids[: len(video_chunk)] = config.video_token_id
    return ids[order]


def _moving_pixels(grid: list[int], patch: int, device: torch.device) -> Tensor:
    """[T * H * W, patch]: frames that share most of their content, as those of a video do."""
    frames, height, width = grid
    torch.manual_seed(frames)
    scene = torch.randn(1, height * width, patch, device=device)
    change = torch.rand(frames, height * width, 1, device=device) ** 4
    pixels = (1 - change) * scene + change * torch.randn(frames, height * width, patch, device=device)
    return pixels.flatten(0, 1)


def _shallow_thinker(config: Any) -> None:
    config.text_config.num_hidden_layers = 2
    if getattr(config.text_config, "layer_types", None) is not None:
        config.text_config.layer_types = config.text_config.layer_types[:2]
    config.vision_config.depth, config.vision_config.fullatt_block_indexes = 2, [1]
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


TINY = ModelSpec(
    name="tiny",
    config=_tiny_thinker,
    model_class="Qwen2_5OmniThinkerForConditionalGeneration",
    prompt=qwen2_5_omni_prompt,
    shallow=_shallow_thinker,
    clips=(ClipShape(6, 4, 6), ClipShape(10, 4, 6)),
)
"""For tests of the kit on a CPU."""

MODELS = {spec.name: spec for spec in (_qwen2_5_omni("7b"), _qwen2_5_omni("3b"))}
"""All models that `omnisift verify` knows, by name. A new family needs a line here and a function for its prompt."""
