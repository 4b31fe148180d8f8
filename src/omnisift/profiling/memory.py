"""Memory of one question about a clip at the peak of each stage, from a configuration and the size of the clip alone.

The terms are the tensors that are alive at once in `Pipeline.ask` with the default method and the attention kernel
``sdpa``, read off a trace of a tiny model's allocations; tests compare the sums with such traces. Nothing is fitted.
Weights and the KV cache are exact. Small terms are left out: masks, positions, logits, and what the method computes
from its copies of the embeddings.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from omnisift.budget import Budget
from omnisift.errors import UsageError
from omnisift.pipeline.clip_windows import WINDOW_STEPS, window_steps
from omnisift.pipeline.windowed_clip import LONG_IMAGES
from omnisift.profiling.analytic import cache_bytes, kept_tokens
from omnisift.profiling.flops import has_state, head_size, is_sparse
from omnisift.profiling.shape import PromptShape

_FLOAT32 = 4
_PROJECTED = 512
"""Bytes of a token's projection in the default method: 128 values in float32."""


@dataclass(frozen=True)
class ClipMemory:
    """Bytes of the tensors of one question, besides the weights."""

    prompt: int
    """Tokens that the language model reads."""
    encode: int
    """Peak of the encoders, with what they read and what is held of the clip."""
    compress: int
    """Peak of the compression; 0 without."""
    prefill: int
    """Peak of the language model's first pass, with the complete KV cache."""
    cache: int
    """KV cache at the end of the answer, a part of ``prefill``."""

    @property
    def peak(self) -> int:
        """The largest of the stages."""
        return max(self.encode, self.compress, self.prefill)

    def to_dict(self) -> dict[str, int]:
        """Return plain data for JSON."""
        return {**asdict(self), "peak": self.peak}


def check_countable(config: Any) -> None:
    """Check that the activations of a model's layers are known.

    Raises:
        UsageError: it has experts, or layers with a state.
    """
    text = config.text_config
    layers = range(text.num_hidden_layers)
    if any(has_state(text, layer) or is_sparse(text, layer) for layer in layers):
        raise UsageError(
            f"the activations of {config.model_type} are not counted (experts, or layers with a state): leave out "
            "--device-memory, and add what the model needs on your machine to the weights and the cache"
        )


def clip_memory(
    config: Any, shape: PromptShape, budget: Budget | None, *, new: int = 256, size: int = 2, device: str = "cuda"
) -> ClipMemory:
    """Count the memory of one question about a clip that `Pipeline.ask` reads from its file.

    Args:
        config: Configuration of a host.
        shape: Size of the clip and of the prompt's text.
        budget: What the default method keeps; None keeps every token, without a method.
        new: Tokens of the answer.
        size: Bytes of a value.
        device: Type of the device. On ``cpu`` the spectrogram of the preparation counts as well, and windows are
            smaller.
    """
    return _Counter(config, shape, budget, size, device).count(new)


class _Counter:
    """The terms of one question. Sizes are in bytes."""

    def __init__(self, config: Any, shape: PromptShape, budget: Budget | None, size: int, device: str) -> None:
        self.config, self.shape, self.size = config, shape, size
        self.on_cpu, self.is_cut = device == "cpu", budget is not None
        self.video, self.audio = shape.video, shape.audio
        if budget is not None:
            _, self.video, self.audio = kept_tokens(shape, shape.chunks(), budget)
        vision = config.vision_config
        self.patches = shape.video * vision.spatial_merge_size**2
        # Above a window the clip is encoded in parts, if it is compressed; above 256 images each is compressed alone.
        self.in_windows = self.is_cut and shape.frames > WINDOW_STEPS
        self.is_causal = self.in_windows and 2 * shape.frames > LONG_IMAGES
        steps = window_steps(self.patches // shape.frames, device) if self.in_windows else shape.frames
        self.part = min(1.0, steps / shape.frames)
        self.token = size * config.text_config.hidden_size

    def count(self, new: int) -> ClipMemory:
        """All stages."""
        prompt = self.video + self.audio + self.shape.times + self.shape.text
        cache = cache_bytes(self.config.text_config, prompt + new, self.size)
        encode, compress, resident = self._windows() if self.in_windows else self._whole(prompt)
        if not self.is_cut:
            compress = 0
        prefill = resident + self._language_model(prompt) + cache
        return ClipMemory(prompt, int(encode), int(compress), int(prefill), int(cache))

    def _whole(self, prompt: int) -> tuple[float, float, float]:
        """Encoders, compression, and what is allocated outside the language model, where a clip is encoded at once."""
        shape, token = self.shape, self.token
        clip = shape.video + shape.audio
        inputs = self._inputs(1.0)
        # The output of the last layer; the video tokens twice, as the encoder and as the model around it have them.
        hidden = self.size * self.patches * self._vision_width
        video = hidden + (1 + self._deep_layers) * shape.video * token
        features = video + (shape.video + shape.audio) * token
        embeds = shape.prompt * token
        encode = inputs + max(self._vision(self.patches), video + embeds + self._audio(shape.mel))
        compress = inputs + features + embeds + self._method(clip) + clip * token
        # The model around the language model has the full embeddings, and an attachment's hook the cut ones.
        return encode, compress, inputs + features + embeds + (prompt * token if self.is_cut else 0)

    def _windows(self) -> tuple[float, float, float]:
        """The same where the clip is encoded in windows."""
        shape, token = self.shape, self.token
        clip, kept = (shape.video + shape.audio) * token, (self.video + self.audio) * token
        window = self.part * clip
        held = kept if self.is_causal else clip
        # The patches are freed before the sound is encoded; they are counted, as its preparation is not.
        audio = self.part * shape.video * token + window + self._audio(self.part * shape.mel)
        encode = self._inputs(self.part) + held + max(self._vision(self.part * self.patches), audio)
        if self.is_causal:
            # A window and the one before, to which a method may look back, joined; and the kept tokens, which are
            # joined and put in order in the end.
            tokens = 2 * self.part * (shape.video + shape.audio)
            compress = max(kept + 4 * window + self._method(tokens), 3 * kept)
        else:
            # All windows are joined and put in order; then the method has a copy of its own.
            compress = max(3 * clip, 2 * clip + self._method(shape.video + shape.audio) + kept)
        # Kept tokens, the embeddings of the text, and both together.
        prompt = (self.video + self.audio + shape.times + shape.text) * token
        resident = kept + 2 * prompt + self._deep_layers * self.video * token
        return encode, compress + self._inputs(0.0), resident

    def _inputs(self, part: float) -> float:
        """Patches of a part of the clip and its spectrogram."""
        vision, patches = self.config.vision_config, part * self.patches
        pixels = patches * vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        total = self.size * pixels
        mel = self.shape.mel * self.config.audio_config.num_mel_bins if self.shape.mel else 0
        if not self.in_windows:
            total += self.size * mel
        if self.on_cpu:
            total += _FLOAT32 * mel
        return float(total)

    @property
    def _vision_width(self) -> int:
        vision = self.config.vision_config
        return int(getattr(vision, "embed_dim", vision.hidden_size))

    @property
    def _deep_layers(self) -> int:
        vision = self.config.vision_config
        return len(set(getattr(vision, "deepstack_visual_indexes", ())) & set(range(vision.depth)))

    def _vision(self, patches: float) -> float:
        """A layer of the vision encoder: attention with its rotation in float32, or the MLP."""
        vision, width, size = self.config.vision_config, self._vision_width, self.size
        inner = int(width * vision.mlp_ratio) if hasattr(vision, "mlp_ratio") else vision.intermediate_size
        # Residual, normed, q, k, v; q and k in float32 if they are not; one rotated, and three terms of the other.
        attention = width * (5 * size + _FLOAT32 * (4 if size == _FLOAT32 else 6))
        # Residual, normed; with a gate its activation, what it multiplies, and the product.
        mlp = size * (2 * width + (3 if hasattr(vision, "window_size") else 2) * inner)
        tables = 2 * _FLOAT32 * (width // vision.num_heads)
        deep = self._deep_layers * self.token / vision.spatial_merge_size**2
        return float(patches * (max(attention, mlp) + tables + deep))

    def _audio(self, mel: float) -> float:
        """A layer of the audio encoder on two spectrogram frames per step, and the padded spectrogram."""
        if not mel:
            return 0
        audio = self.config.audio_config
        layer = 3 * audio.d_model + 2 * audio.encoder_ffn_dim
        return float(self.size * (mel / 2 * layer + 2 * mel * audio.num_mel_bins))

    def _method(self, tokens: float) -> float:
        """The default method's copy of so many embeddings in float32, if they are not, and their projection."""
        in_float32 = 0 if self.size == _FLOAT32 else _FLOAT32 * self.config.text_config.hidden_size
        return float(tokens * (in_float32 + _PROJECTED))

    def _language_model(self, tokens: int) -> float:
        """A layer of the language model: the MLP, or attention with its rotation."""
        text = self.config.text_config
        queries, keys = (heads * head_size(text) for heads in (text.num_attention_heads, text.num_key_value_heads))
        # Residual before and after attention, normed; then the gate's activation, what it multiplies, and the product;
        # or q, k, v, and three terms of a rotated q.
        layer = 3 * text.hidden_size + max(3 * text.intermediate_size, 4 * queries + 2 * keys)
        return float(self.size * tokens * (layer + 2 * head_size(text)))
