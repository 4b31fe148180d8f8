"""The two encoders of Qwen3-Omni over batches of equal clips: the host's outputs, several times faster on a CPU.

As in `omnisift.lab.training.encoders`, windows are batched and the patch embedding is a matrix product.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.lab.training.encoders import audio_attention, axial, merge_order, rotate

_MEL_PER_CHUNK, _TOKENS_PER_CHUNK = 100, 13
"""A second, which the convolutions read alone."""


def encode_frames(visual: Any, patches: Tensor) -> Tensor:
    """Run the vision encoder on square frames that have one patch for each of its learned positions.

    Args:
        visual: the host's vision encoder.
        patches: [N, P, 3 * 2 * 16 * 16], see `omnisift.lab.training.encoders.patchify`.

    Returns:
        [N, P/4, (1 + levels) * D], by rows from the top left: the token, then its features of each deepstack level.
    """
    embed = visual.patch_embed.proj
    x = F.linear(patches, embed.weight.flatten(1), embed.bias)
    x = x + visual.pos_embed.weight[merge_order(patches.shape[1])]
    cos, sin = axial(visual, patches.shape[1])
    deep = []
    for number, block in enumerate(visual.blocks):
        x = x + _vision_attention(block.attn, block.norm1(x), cos, sin)
        x = x + block.mlp(block.norm2(x))
        if number in visual.deepstack_visual_indexes:
            deep.append(visual.merger_list[visual.deepstack_visual_indexes.index(number)](x))
    parts = torch.cat([visual.merger(x), *deep], dim=-1)
    return parts.view(len(patches), -1, parts.shape[-1])


def _vision_attention(attention: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    q, k, v = attention.qkv(x).view(*x.shape[:2], 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v)
    out: Tensor = attention.proj(mixed.transpose(1, 2).flatten(2))
    return out


def encode_audio(encoder: Any, mel: Tensor) -> Tensor:
    """Run the audio encoder; it attends within windows of ``n_window_infer`` spectra, or the whole of a shorter clip.

    Args:
        encoder: the host's audio encoder.
        mel: [B, 128, 100 n], see `omnisift.lab.training.encoders.log_mel`.

    Returns:
        [B, 13 n, D].
    """
    b, bins, length = mel.shape
    chunks = length // _MEL_PER_CHUNK
    # Three convolutions of stride two on each second: 13 tokens.
    x = mel.view(b, bins, chunks, _MEL_PER_CHUNK).transpose(1, 2).flatten(0, 1)[:, None]
    for convolution in (encoder.conv2d1, encoder.conv2d2, encoder.conv2d3):
        x = F.gelu(convolution(x))
    x = encoder.conv_out(x.permute(0, 3, 1, 2).flatten(2))
    x = x + encoder.positional_embedding.positional_embedding[: x.shape[1]]
    # Layers on each window, whose seconds are joined.
    window = min(chunks, encoder.n_window_infer // _MEL_PER_CHUNK)
    x = x.view(-1, window * _TOKENS_PER_CHUNK, x.shape[-1])
    for layer in encoder.layers:
        x = x + audio_attention(layer.self_attn, layer.self_attn_layer_norm(x))
        x = x + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(x))))
    out: Tensor = encoder.proj2(encoder.act(encoder.proj1(encoder.ln_post(x))))
    return out.view(b, -1, out.shape[-1])
