"""Floating-point operations of one forward, from dimensions alone: as torch's own counter counts, and to the last one.

A product of an [n, k] with a [k, m] matrix is ``2 n k m``. Counted are products and convolutions; not norms,
activations and rotary turns, which are small. Attention is counted over all pairs of tokens, as torch's counter does;
a causal kernel computes half of them. Nothing here builds a model; configurations are those of Transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from omnisift.pipeline.clip_info import audio_tokens

if TYPE_CHECKING:
    from omnisift.budget import Counts
    from omnisift.chunks import ChunkShapes
    from omnisift.vgas import VGASConfig


@dataclass(frozen=True)
class Flops:
    """Operations of a stage, in two parts that grow differently."""

    weights: int = 0
    """Products with weights and convolutions: linear in the tokens."""
    pairs: int = 0
    """Attention's scores and mixing: one entry for each pair of tokens, and invisible to counters where a kernel from
    outside torch computes them (FlashAttention's package)."""

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.weights + other.weights, self.pairs + other.pairs)

    @property
    def total(self) -> int:
        """Both parts."""
        return self.weights + self.pairs


def language_model(config: Any, new: int, cached: int = 0, logits: int | None = None) -> Flops:
    """The text model with its head: ``new`` tokens behind ``cached`` ones, and ``logits`` rows of the vocabulary.

    None means those of all new tokens: so does Qwen2.5-Omni's thinker, also in ``generate``, which reads only the last.
    """
    width, heads, groups = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
    head = getattr(config, "head_dim", None) or width // heads
    attention = 2 * width * heads * head + 2 * width * groups * head  # q and out; k and v
    layer = 2 * new * (attention + 3 * width * config.intermediate_size)
    pairs = 4 * new * (cached + new) * heads * head
    vocabulary = 2 * (new if logits is None else logits) * width * config.vocab_size
    return Flops(config.num_hidden_layers * layer + vocabulary, config.num_hidden_layers * pairs)


def prompt(config: Any, grid: tuple[int, int, int], mel: int, tokens: int) -> Flops:
    """Both encoders on a clip, and the prefill of a prompt of ``tokens``; what a compressor itself does is not counted.

    ``config`` is a thinker's; ``grid`` time steps, height and width of the video in tokens, zeros where there is none.
    """
    total = language_model(config.text_config, tokens)
    if all(grid):
        total += vision_encoder(config.vision_config, *grid)
    return total + audio_encoder(config.audio_config, mel) if mel else total


def vision_encoder(config: Any, frames: int, height: int, width: int) -> Flops:
    """The vision tower on ``frames`` x ``height`` x ``width`` tokens (after merging, as the language model gets them).

    A frame attends to itself in the layers of ``fullatt_block_indexes``, and in windows in all others.
    """
    merge, size, inner = config.spatial_merge_size, config.hidden_size, config.intermediate_size
    tokens = frames * height * width
    patches = tokens * merge**2
    pixels = config.in_channels * config.temporal_patch_size * config.patch_size**2
    block = 2 * patches * (4 * size**2 + 3 * size * inner)
    merged = size * merge**2
    merger = 2 * tokens * merged * (merged + config.out_hidden_size)
    side = config.window_size // merge // config.patch_size
    windowed = frames * merge**4 * _squares(height, side) * _squares(width, side)
    whole = frames * (merge**2 * height * width) ** 2
    full = len(set(config.fullatt_block_indexes) & set(range(config.depth)))
    pairs = 4 * size * (full * whole + (config.depth - full) * windowed)
    return Flops(2 * patches * pixels * size + config.depth * block + merger, pairs)


def audio_encoder(config: Any, mel: int) -> Flops:
    """The audio tower on ``mel`` frames of the spectrogram (100 a second): chunks of two windows, apart from each
    other."""
    if mel == 0:
        return Flops()
    size, chunk = config.d_model, 2 * config.n_window
    lengths = [chunk] * (mel // chunk) + ([mel % chunk] if mel % chunk else [])
    halves = [_halved(length) for length in lengths]
    padded = len(lengths) * max(lengths), len(lengths) * max(halves)  # convolutions run on equal lengths
    convolutions = 2 * 3 * size * (padded[0] * config.num_mel_bins + padded[1] * size)
    layer = 2 * sum(halves) * (4 * size**2 + 2 * size * config.encoder_ffn_dim)
    projection = 2 * audio_tokens(mel) * size * config.output_dim
    pairs = 4 * size * sum(half**2 for half in halves)
    return Flops(convolutions + config.encoder_layers * layer + projection, config.encoder_layers * pairs)


def selector(config: VGASConfig, shapes: ChunkShapes, counts: Counts) -> Flops:
    """The audio selector under guide "cross": the anchors that ``counts`` keeps and all audio, chunk by chunk.

    Where the audio of a chunk stays whole for lack of anchors or of a choice, nothing is computed.
    """
    hidden, layers = config.hidden_size, config.num_hidden_layers
    anchors = counts.frame0 + counts.frame1
    scored = (shapes.audio > 1) & (anchors > 0)
    visual, audio = int(anchors[scored].sum()), int(shapes.audio[scored].sum())
    both = int((anchors * shapes.audio)[scored].sum())
    projected = (visual + audio) * config.input_size * hidden
    attended = layers * 2 * hidden**2 * (audio + visual)  # q and out of the audio, k and v of the anchors
    head = audio * (hidden * (hidden // 2) + hidden // 2)
    return Flops(2 * (projected + attended + head), layers * 4 * hidden * both)


def video_pruning(shapes: ChunkShapes, width: int) -> Flops:
    """The cosines of STVP: a dot product and a length for each token, and the mean of each first frame.

    Elementwise work: torch's counter sees only the dot products of first frames, where they are one batched product.
    """
    first, second = int(shapes.frame0.sum()), int(shapes.frame1.sum())
    return Flops(weights=width * (5 * first + 4 * second))


def spatial_dots(shapes: ChunkShapes, width: int) -> int:
    """What torch's counter sees of `video_pruning`, in float32."""
    return 2 * width * int(torch.sum(shapes.frame0))


def _squares(length: int, side: int) -> int:
    """Sum of squares of the pieces when ``length`` is cut every ``side``."""
    return length // side * side**2 + (length % side) ** 2


def _halved(length: int) -> int:
    """After a convolution of stride 2."""
    return (length - 1) // 2 + 1
