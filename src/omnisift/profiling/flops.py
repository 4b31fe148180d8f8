"""Floating-point operations of one forward pass, counted from a configuration of Transformers.

The counts equal those of torch's counter. A product of an [n, k] with a [k, m] matrix is ``2 n k m`` operations.
Products and convolutions are counted; norms, activations and rotary embeddings, which are small, are not. Attention is
counted over all pairs of tokens; a causal kernel computes half of them. What a family has more than another, such as
experts, windows or layers with a state, shows in its configuration.

Layers with a state (Qwen3.5) are counted as for a prompt, in parts of 64 tokens, and differ from the counter in one
thing: torch's convolution also runs on the padding before and behind the prompt, which is left out here. What the
counter does not see is left out here as well: the triangular systems of each part, and the products of a state with a
single token, which torch computes element by element.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from omnisift.models import model_class
from omnisift.models.qwen2_5_omni import audio_tokens

if TYPE_CHECKING:
    from omnisift.budget import Counts
    from omnisift.chunks import ChunkShapes
    from omnisift.vgas import VGASConfig

STATE_PART = 64
"""Tokens that a layer with a state reads at once; a prompt is padded to whole parts."""


@dataclass(frozen=True)
class Flops:
    """Operations of a stage: a part linear in the tokens and a part quadratic in them."""

    weights: int = 0
    """Products with weights and convolutions; linear in the number of tokens."""
    pairs: int = 0
    """Attention scores and weighted sums, over all pairs of tokens. Counters miss them where a kernel outside of torch
    computes them (the FlashAttention package)."""

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.weights + other.weights, self.pairs + other.pairs)

    @property
    def total(self) -> int:
        """Sum of both parts."""
        return self.weights + self.pairs


def language_model(config: Any, new: int, cached: int = 0, logits: int | None = None) -> Flops:
    """Count the language model of any family with its head.

    Args:
        config: Configuration of the text model.
        new: Tokens of the forward pass.
        cached: Tokens in the KV cache.
        logits: Tokens with logits; None means all new ones.
    """
    total = Flops(2 * (new if logits is None else logits) * config.hidden_size * config.vocab_size)
    for layer in range(config.num_hidden_layers):
        mixed = _state(config, new, cached) if has_state(config, layer) else _attention(config, new, cached)
        total += mixed + Flops(2 * new * _mlp_weights(config, layer))
    return total


def prompt(config: Any, grid: tuple[int, int, int], mel: int, tokens: int) -> Flops:
    """Count the encoders and the prefill of `Pipeline.ask` for a prompt of any family, without compression.

    Args:
        config: Configuration of the host, such as a thinker's.
        grid: Time steps, height and width of the video in tokens; zeros without video.
        mel: Frames of the spectrogram; 0 without audio.
        tokens: Tokens that the language model reads.
    """
    return encoders(config, grid, mel) + language_model(config.text_config, tokens, logits=1)


def encoders(config: Any, grid: tuple[int, int, int], mel: int) -> Flops:
    """Count the encoders of a host; arguments as `prompt` has them."""
    video = vision_encoder(config.vision_config, *grid) if all(grid) else Flops()
    return video + audio_encoder(config.audio_config, mel) if mel else video


def prompt_logits(config: Any, tokens: int) -> int:
    """Tokens of a prompt whose logits ``generate`` computes by itself: the last, or in the Omni families all."""
    return 1 if "logits_to_keep" in inspect.signature(model_class(config.model_type).forward).parameters else tokens


def has_state(config: Any, layer: int) -> bool:
    """Whether a layer of a text model has linear attention, with a state in place of keys and values."""
    kinds = getattr(config, "layer_types", None)
    return kinds is not None and kinds[layer] == "linear_attention"


def head_size(config: Any) -> int:
    """Width of one attention head of a text model."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _attention(config: Any, new: int, cached: int) -> Flops:
    """A layer with keys and values."""
    queries, keys = (heads * head_size(config) for heads in (config.num_attention_heads, config.num_key_value_heads))
    # q and out have all heads, k and v the key-value heads. Where other layers have a state, a gate is as wide as q.
    gate = queries if hasattr(config, "linear_num_value_heads") else 0
    weights = 2 * new * config.hidden_size * (2 * queries + gate + 2 * keys)
    # Every new token attends to all tokens: scores and weighted sums, 2 operations per entry each.
    return Flops(weights, 4 * new * (cached + new) * queries)


def _state(config: Any, new: int, cached: int) -> Flops:
    """A layer with linear attention (gated delta rule)."""
    heads, key, value = config.linear_num_value_heads, config.linear_key_head_dim, config.linear_value_head_dim
    read = 2 * config.linear_num_key_heads * key + heads * value
    # q, k and v together, the gate z, two numbers for each head, and out.
    projections = config.hidden_size * (read + 2 * heads * value + 2 * heads)
    weights = 2 * new * (projections + config.linear_conv_kernel_dim * read)
    if cached and new == 1:
        return Flops(weights)
    # In each part, two products between its keys, and one of these with its values; and three with the state.
    parts = -(-new // STATE_PART)
    between = 2 * STATE_PART**2 * (2 * key + value) + 3 * 2 * STATE_PART * key * value
    return Flops(weights, parts * heads * between)


def _mlp_weights(config: Any, layer: int) -> int:
    """Weights that one token meets in the MLP of a layer: three matrices, or a router and those of its experts."""
    width = int(config.hidden_size)
    total = 3 * width * mlp_width(config, layer)
    if not is_sparse(config, layer):
        return total
    shared = bool(getattr(config, "shared_expert_intermediate_size", None))
    # The shared expert has a gate of one number.
    return total + width * (int(config.num_experts) + shared)


def is_sparse(config: Any, layer: int) -> bool:
    """Whether the MLP of a layer of a text model is a mixture of experts."""
    is_dense = layer in getattr(config, "mlp_only_layers", ()) or (layer + 1) % getattr(
        config, "decoder_sparse_step", 1
    )
    return bool(getattr(config, "num_experts", 0)) and not is_dense


def mlp_width(config: Any, layer: int) -> int:
    """Inner width of the MLP of a layer for one token, of all its experts together."""
    if not is_sparse(config, layer):
        return int(config.intermediate_size)
    shared = getattr(config, "shared_expert_intermediate_size", None) or 0
    return int(config.moe_intermediate_size * config.num_experts_per_tok + shared)


def vision_encoder(config: Any, frames: int, height: int, width: int) -> Flops:
    """Count the vision encoder of any family on ``frames`` x ``height`` x ``width`` tokens.

    These are tokens as the language model gets them. Attention is within a frame; in the Qwen2.5 families only in the
    layers of ``fullatt_block_indexes``, and within windows of a frame in all others.
    """
    merge, size = config.spatial_merge_size, getattr(config, "embed_dim", config.hidden_size)
    out = config.hidden_size if hasattr(config, "embed_dim") else config.out_hidden_size
    tokens = frames * height * width
    patches = tokens * merge**2
    pixels = config.in_channels * config.temporal_patch_size * config.patch_size**2
    # Per layer q, k, v and out, and the MLP, on patches. Then the merger, on tokens; deepstack has more of them.
    block = 2 * patches * (4 * size**2 + _vision_mlp_weights(config, size))
    merged = size * merge**2
    mergers = 1 + len(set(getattr(config, "deepstack_visual_indexes", ())) & set(range(config.depth)))
    weights = 2 * patches * pixels * size + config.depth * block + mergers * 2 * tokens * merged * (merged + out)
    # Attention within complete frames, and within windows of side x side tokens.
    framewise, full = frames * (merge**2 * height * width) ** 2, config.depth
    windowed = 0
    if hasattr(config, "window_size"):
        side = config.window_size // merge // config.patch_size
        windowed = frames * merge**4 * _squares(height, side) * _squares(width, side)
        full = len(set(config.fullatt_block_indexes) & set(range(config.depth)))
    return Flops(weights, 4 * size * (full * framewise + (config.depth - full) * windowed))


def _vision_mlp_weights(config: Any, size: int) -> int:
    """Weights of the MLP of a vision layer: with a gate where there are windows."""
    if hasattr(config, "mlp_ratio"):
        return int(2 * size * int(size * config.mlp_ratio))
    return int((3 if hasattr(config, "window_size") else 2) * size * config.intermediate_size)


def audio_encoder(config: Any, mel: int) -> Flops:
    """Count the audio encoder of either Omni family on ``mel`` spectrogram frames (100 per second).

    The spectrogram is cut in chunks of two windows, and the convolutions run on chunks padded to the longest.
    """
    if mel == 0:
        return Flops()
    size, chunk = config.d_model, 2 * config.n_window
    lengths = [chunk] * (mel // chunk) + ([mel % chunk] if mel % chunk else [])
    if hasattr(config, "downsample_hidden_size"):
        return _convolved_audio(config, lengths)
    halves = [_halved(length) for length in lengths]
    padded = len(lengths) * max(lengths), len(lengths) * max(halves)
    convolutions = 2 * 3 * size * (padded[0] * config.num_mel_bins + padded[1] * size)
    layer = 2 * sum(halves) * (4 * size**2 + 2 * size * config.encoder_ffn_dim)
    projection = 2 * audio_tokens(mel) * size * config.output_dim
    pairs = 4 * size * sum(half**2 for half in halves)
    return Flops(convolutions + config.encoder_layers * layer + projection, config.encoder_layers * pairs)


def _convolved_audio(config: Any, lengths: list[int]) -> Flops:
    """The audio encoder of Qwen3-Omni on chunks of these lengths: images of frequency and time, halved three times."""
    size, channels = config.d_model, config.downsample_hidden_size
    bins, longest, convolutions, inputs = config.num_mel_bins, max(lengths), 0, 1
    for _ in range(3):
        bins, longest, lengths = _halved(bins), _halved(longest), [_halved(length) for length in lengths]
        convolutions += 2 * 9 * len(lengths) * bins * longest * inputs * channels
        inputs = channels
    tokens = sum(lengths)
    rows = 2 * len(lengths) * longest * channels * bins * size  # also on padding
    layer = 2 * tokens * (4 * size**2 + 2 * size * config.encoder_ffn_dim)
    projection = 2 * tokens * size * (size + config.output_dim)
    # Attention is within windows of so many chunks.
    window = longest * (config.n_window_infer // (2 * config.n_window))
    pairs = 4 * size * (tokens // window * window**2 + (tokens % window) ** 2)
    weights = convolutions + rows + config.encoder_layers * layer + projection
    return Flops(weights, config.encoder_layers * pairs)


def selector(config: VGASConfig, shapes: ChunkShapes, counts: Counts) -> Flops:
    """Count the audio selector with guide "cross", chunk by chunk.

    A chunk that keeps its audio needs no scores if it has no anchors or at most one audio token. One that drops audio
    without anchors is scored by all of its video.

    Args:
        config: Configuration of the selector.
        shapes: Tokens of every chunk.
        counts: Kept tokens of every chunk; the kept video tokens are the anchors.
    """
    hidden, layers = config.hidden_size, config.num_hidden_layers
    anchors, pruned = counts.frame0 + counts.frame1, counts.audio < shapes.audio
    anchors = torch.where(pruned & (anchors == 0), shapes.frame0 + shapes.frame1, anchors)
    scored = ((shapes.audio > 1) | pruned) & (anchors > 0)
    visual, audio = int(anchors[scored].sum()), int(shapes.audio[scored].sum())
    both = int((anchors * shapes.audio)[scored].sum())
    projected = (visual + audio) * config.input_size * hidden
    attended = layers * 2 * hidden**2 * (audio + visual)  # q and out on audio tokens, k and v on anchors
    head = audio * (hidden * (hidden // 2) + hidden // 2)
    return Flops(2 * (projected + attended + head), layers * 4 * hidden * both)


def video_pruning(shapes: ChunkShapes, width: int) -> Flops:
    """Count the cosines of STVP: a dot product and a norm per token, and the mean of each first frame.

    Most of it is elementwise; torch's counter counts only the dot products of first frames, one batched product.
    """
    first, second = int(shapes.frame0.sum()), int(shapes.frame1.sum())
    return Flops(weights=width * (5 * first + 4 * second))


def spatial_dots(shapes: ChunkShapes, width: int) -> int:
    """Return what torch's counter counts of `video_pruning` in float32."""
    return 2 * width * int(torch.sum(shapes.frame0))


def _squares(length: int, side: int) -> int:
    """The sum of squared window lengths when ``length`` is cut every ``side``."""
    return length // side * side**2 + (length % side) ** 2


def _halved(length: int) -> int:
    """The length after a convolution of stride 2."""
    return (length - 1) // 2 + 1
