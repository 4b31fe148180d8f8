"""nano's two encoders over batches of equal clips: the host's outputs, several times faster on a CPU.

The host runs attention window by window in a Python loop and the patch embedding as a 3-D convolution. Training clips
have one size (112 x 112 images, full seconds of audio), so windows are batched and the convolution is a matrix product.
``tests/training/test_encoders.py`` compares both paths.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

MERGE, IMAGES_PER_FRAME = 2, 2
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""CLIP's colour statistics, as in the host's video processor."""
_FFT, _HOP, _RATE, _BINS = 400, 160, 16_000, 128
_MEL_PER_WINDOW = 100
"""One second: twice the audio encoder's ``n_window`` of 50."""


def patchify(images: NDArray[np.uint8], patch: int = 14) -> Tensor:
    """Images as patches in the host's order.

    Patches of one 2 x 2 merge block are adjacent; the values of a patch are ordered by colour, time, row, column.

    Args:
        images: [B, N, H, W, 3] uint8.
        patch: pixels along one side of a patch.

    Returns:
        [B * N/2, H/patch * W/patch, 6 * patch * patch] float32.
    """
    b, n, height, width, _ = images.shape
    block = patch * MERGE
    x = torch.from_numpy(images).reshape(
        b * n // 2, IMAGES_PER_FRAME, height // block, MERGE, patch, width // block, MERGE, patch, 3
    )
    x = x.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).contiguous().view(b * n // 2, -1, 3, IMAGES_PER_FRAME * patch * patch)
    mean, std = (torch.tensor(v).view(3, 1) for v in (_MEAN, _STD))
    return x.float().mul_(1 / (255 * std)).sub_(mean / std).flatten(2)


@lru_cache(maxsize=1)
def _filters() -> Tensor:
    filters = mel_filter_bank(1 + _FFT // 2, _BINS, 0.0, 8000.0, _RATE, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(filters).float()


def log_mel(waves: Tensor) -> Tensor:
    """Log-mel spectrograms as `WhisperFeatureExtractor` computes them, with silence after the end.

    The host pads to ``chunk_length``, so its last window sees zeros and not a reflection.

    Args:
        waves: [B, S] float32 at 16 kHz.

    Returns:
        [B, 128, S/160] float32.
    """
    padded = F.pad(waves, (0, _FFT))
    spectrum = torch.stft(padded, _FFT, _HOP, window=torch.hann_window(_FFT), return_complex=True)
    power = spectrum[..., : waves.shape[1] // _HOP].abs().square()
    mel = (_filters().T @ power).clamp(min=1e-10).log10()
    loudest = mel.amax(dim=(1, 2), keepdim=True)
    return (torch.maximum(mel, loudest - 8.0) + 4.0) / 4.0


def encode_frames(visual: Any, patches: Tensor) -> Tensor:
    """Run the vision encoder on frames of 8 x 8 patches.

    Args:
        visual: the host's vision encoder.
        patches: [N, 64, 1176], see `patchify`.

    Returns:
        [N, 16, D], by rows from the top left.
    """
    weight = visual.patch_embed.proj.weight
    # Patch embedding: a convolution whose stride is its kernel is a matrix product.
    x = F.linear(patches, weight.flatten(1))
    cos, sin = axial(visual, patches.shape[1])
    for block in visual.blocks:
        x = x + _vision_attention(block.attn, block.norm1(x), cos, sin)
        x = x + block.mlp(block.norm2(x))
    merged: Tensor = visual.merger(x)
    return merged.view(patches.shape[0], -1, merged.shape[-1])


def axial(visual: Any, patches: int) -> tuple[Tensor, Tensor]:
    """Rotary cosine and sine [patches, head_dim] of a square image, in merge-block order."""
    side = int(patches**0.5)
    order = merge_order(patches)
    places = torch.stack([order // side, order % side], dim=-1)
    cos, sin = visual.rotary_pos_emb(visual.patch_embed.proj.weight, places)
    return cos, sin


def merge_order(patches: int) -> Tensor:
    """[patches] int64: index by rows of each patch of a square image, in merge-block order."""
    side = int(patches**0.5)
    return torch.arange(patches).view(side // 2, 2, side // 2, 2).permute(0, 2, 1, 3).flatten()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin


def _vision_attention(attention: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    q, k, v = (
        layer(x).view(*x.shape[:2], attention.num_heads, -1).transpose(1, 2)
        for layer in (attention.q, attention.k, attention.v)
    )
    mixed = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v)
    out: Tensor = attention.proj(mixed.transpose(1, 2).flatten(2))
    return out


def encode_audio(encoder: Any, mel: Tensor) -> Tensor:
    """Run the audio encoder, with every second as a window of its own.

    Args:
        encoder: the host's audio encoder.
        mel: [B, 128, 100 n], see `log_mel`.

    Returns:
        [B, 25 n, D].
    """
    b, bins, length = mel.shape
    windows = length // _MEL_PER_WINDOW
    # Cut into windows of one second, which become rows of the batch.
    x = mel.view(b, bins, windows, _MEL_PER_WINDOW).transpose(1, 2).flatten(0, 1)
    # Two convolutions, then the layers on each window.
    x = F.gelu(encoder.conv2(F.gelu(encoder.conv1(x)))).transpose(1, 2)
    x = x + encoder.positional_embedding.positional_embedding[: x.shape[1]]
    for layer in encoder.layers:
        x = x + audio_attention(layer.self_attn, layer.self_attn_layer_norm(x))
        x = x + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(x))))
    x = x.unflatten(1, (-1, 2)).mean(2)  # the host pools pairs
    out: Tensor = encoder.proj(encoder.ln_post(x))
    return out.view(b, -1, out.shape[-1])


def audio_attention(attention: Any, x: Tensor) -> Tensor:
    """Attention within each row of a batch [N, T, D], as the audio encoders of both families compute it."""
    q, k, v = (
        layer(x).view(*x.shape[:2], attention.num_heads, -1).transpose(1, 2)
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    mixed = F.scaled_dot_product_attention(q, k, v, scale=attention.scaling)
    out: Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return out
