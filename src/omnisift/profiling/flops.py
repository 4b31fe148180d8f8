"""Floating-point operations of one forward pass, counted from a configuration of Transformers.

The counts equal those of torch's counter. A product of an [n, k] with a [k, m] matrix is ``2 n k m`` operations.
Products and convolutions are counted; norms, activations and rotary embeddings, which are small, are not. Attention is
counted over all pairs of tokens; a causal kernel computes half of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from omnisift.models.qwen2_5_omni import audio_tokens

if TYPE_CHECKING:
    from omnisift.budget import Counts
    from omnisift.chunks import ChunkShapes
    from omnisift.vgas import VGASConfig


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
    """Count the language model with its head.

    Args:
        config: Configuration of the text model.
        new: Tokens of the forward pass.
        cached: Tokens in the KV cache.
        logits: Tokens with logits; None means all new ones, as in Qwen2.5-Omni's thinker, also during ``generate``.
    """
    width, heads, groups = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
    head = getattr(config, "head_dim", None) or width // heads
    # Projections: q and out have all heads, k and v the key-value heads. The MLP has three matrices.
    attention = 2 * width * heads * head + 2 * width * groups * head
    layer = 2 * new * (attention + 3 * width * config.intermediate_size)
    # Every new token attends to all tokens: scores and weighted sums, 2 operations per entry each.
    pairs = 4 * new * (cached + new) * heads * head
    vocabulary = 2 * (new if logits is None else logits) * width * config.vocab_size
    return Flops(config.num_hidden_layers * layer + vocabulary, config.num_hidden_layers * pairs)


def prompt(config: Any, grid: tuple[int, int, int], mel: int, tokens: int) -> Flops:
    """Count both encoders and the prefill of a prompt, without compression.

    Args:
        config: Configuration of a thinker.
        grid: Time steps, height and width of the video in tokens; zeros without video.
        mel: Frames of the spectrogram; 0 without audio.
        tokens: Tokens that the language model reads.
    """
    total = language_model(config.text_config, tokens)
    if all(grid):
        total += vision_encoder(config.vision_config, *grid)
    return total + audio_encoder(config.audio_config, mel) if mel else total


def vision_encoder(config: Any, frames: int, height: int, width: int) -> Flops:
    """Count the vision encoder on ``frames`` x ``height`` x ``width`` tokens, as the language model gets them.

    The layers of ``fullatt_block_indexes`` attend within a frame, all others within windows of it.
    """
    merge, size, inner = config.spatial_merge_size, config.hidden_size, config.intermediate_size
    tokens = frames * height * width
    patches = tokens * merge**2
    pixels = config.in_channels * config.temporal_patch_size * config.patch_size**2
    # Per layer: q, k, v and out, and an MLP of three matrices, on patches; then the merger on tokens.
    block = 2 * patches * (4 * size**2 + 3 * size * inner)
    merged = size * merge**2
    merger = 2 * tokens * merged * (merged + config.out_hidden_size)
    # Attention within windows of side x side tokens, and within complete frames.
    side = config.window_size // merge // config.patch_size
    windowed = frames * merge**4 * _squares(height, side) * _squares(width, side)
    framewise = frames * (merge**2 * height * width) ** 2
    full = len(set(config.fullatt_block_indexes) & set(range(config.depth)))
    pairs = 4 * size * (full * framewise + (config.depth - full) * windowed)
    return Flops(2 * patches * pixels * size + config.depth * block + merger, pairs)


def audio_encoder(config: Any, mel: int) -> Flops:
    """Count the audio encoder on ``mel`` spectrogram frames (100 per second), in separate chunks of two windows."""
    if mel == 0:
        return Flops()
    size, chunk = config.d_model, 2 * config.n_window
    lengths = [chunk] * (mel // chunk) + ([mel % chunk] if mel % chunk else [])
    halves = [_halved(length) for length in lengths]
    padded = len(lengths) * max(lengths), len(lengths) * max(halves)  # convolutions run on padded chunks
    convolutions = 2 * 3 * size * (padded[0] * config.num_mel_bins + padded[1] * size)
    layer = 2 * sum(halves) * (4 * size**2 + 2 * size * config.encoder_ffn_dim)
    projection = 2 * audio_tokens(mel) * size * config.output_dim
    pairs = 4 * size * sum(half**2 for half in halves)
    return Flops(convolutions + config.encoder_layers * layer + projection, config.encoder_layers * pairs)


def selector(config: VGASConfig, shapes: ChunkShapes, counts: Counts) -> Flops:
    """Count the audio selector with guide "cross", chunk by chunk.

    A chunk without anchors, or with at most one audio token, needs no scores.

    Args:
        config: Configuration of the selector.
        shapes: Tokens of every chunk.
        counts: Kept tokens of every chunk; the kept video tokens are the anchors.
    """
    hidden, layers = config.hidden_size, config.num_hidden_layers
    anchors = counts.frame0 + counts.frame1
    scored = (shapes.audio > 1) & (anchors > 0)
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
