"""Start the second backbone with the first one's weights, wherever both hosts have a matrix of the same use.

What they lack in common is new: the convolutions of the audio encoder, the vision encoder's feed-forward layers and
learned positions, deepstack, and the experts' router. Training then has to join old and new, but not to learn what a
circle looks like.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnisift.lab.training.nano_model import core_of, language_model_of


@torch.no_grad()
def start_from(model: Any, first: Any) -> None:
    """Copy weights of a Qwen2.5-Omni thinker into a Qwen3-Omni one with the same vocabulary and widths.

    Args:
        model: from `build_qwen3`, changed in place.
        first: from `build_model`, trained.
    """
    _start_vision(core_of(model).visual, core_of(first).visual)
    _start_audio(core_of(model).audio_tower, core_of(first).audio_tower)
    new, old = language_model_of(model), language_model_of(first)
    new.embed_tokens.weight.copy_(old.embed_tokens.weight)
    new.norm.weight.copy_(old.norm.weight)
    for layer, known in zip(new.layers, old.layers, strict=True):
        layer.input_layernorm.weight.copy_(known.input_layernorm.weight)
        layer.post_attention_layernorm.weight.copy_(known.post_attention_layernorm.weight)
        _start_attention(layer.self_attn, known, language_model_of(model).rotary_emb.mrope_section)
        _start_mlp(layer.mlp, known.mlp)


def _start_attention(attention: Any, known: Any, sections: list[int]) -> None:
    """Projections without biases, with the dimensions of time, height and width where the new host rotates them."""
    old, scale = known.self_attn, known.input_layernorm.weight
    attention.v_proj.weight.copy_(old.v_proj.weight)
    attention.o_proj.weight.copy_(old.o_proj.weight)
    order = interleaved(sections)
    for name in ("q", "k"):
        projection = getattr(old, f"{name}_proj")
        heads = projection.weight.view(-1, 2, len(order), projection.weight.shape[1])
        getattr(attention, f"{name}_proj").weight.copy_(heads[:, :, order].flatten(0, 2))
        # The norm of a head gives queries and keys the size that they had, for an input of unit size.
        size = (projection.weight * scale).square().sum(1).add(projection.bias.square()).mean().sqrt()
        getattr(attention, f"{name}_norm").weight.fill_(float(size))


def interleaved(sections: list[int]) -> Tensor:
    """[d/2] int64: for each frequency of interleaved rotary ids, the one of the same kind and rank where all of time
    come first, then all of height, then all of width."""
    time, height, width = sections
    kind = torch.zeros(sum(sections), dtype=torch.long)
    kind[1 : 3 * height : 3], kind[2 : 3 * width : 3] = 1, 2
    first = torch.tensor([0, time, time + height])
    rank = torch.stack([(kind[:i] == kind[i]).sum() for i in range(len(kind))])
    return first[kind] + rank


def _start_mlp(mlp: Any, known: Any) -> None:
    """A dense layer, or experts that are halves of it.

    Two experts of each pair hold one half each, and the router of a new layer always takes both experts of one pair, so
    that the layer computes the same as before.
    """
    if not hasattr(mlp, "experts"):
        mlp.load_state_dict(known.state_dict())
        return
    experts, router = mlp.experts, mlp.gate.weight
    for number in range(experts.num_experts):
        half = slice(number % 2 * experts.intermediate_dim, (number % 2 + 1) * experts.intermediate_dim)
        gate_up = torch.cat([known.gate_proj.weight[half], known.up_proj.weight[half]])
        experts.gate_up_proj[number].copy_(gate_up)
        experts.down_proj[number].copy_(2 * known.down_proj.weight[:, half])  # two experts have half the weight each
    direction = torch.randn(router.shape[0] // 2, router.shape[1]) * 0.02
    router.copy_(direction.repeat_interleave(2, dim=0))


def _start_vision(visual: Any, old: Any) -> None:
    kernel = old.patch_embed.proj.weight  # [hidden, 3, 2, 14, 14]
    embed = visual.patch_embed.proj
    # The same picture has more pixels: the kernel grows with it, and its values shrink.
    size = embed.weight.shape[-1]
    grown = F.interpolate(kernel.flatten(0, 2)[:, None], size=(size, size), mode="bilinear", antialias=True)
    embed.weight.copy_(grown.view_as(embed.weight) * (kernel.shape[-1] / size) ** 2)
    embed.bias.zero_()
    visual.pos_embed.weight.zero_()
    for block, known in zip(visual.blocks, old.blocks, strict=True):
        for name in ("q", "k", "v"):
            at = "qkv".index(name) * block.attn.dim
            for kind in ("weight", "bias"):
                part = getattr(block.attn.qkv, kind)[at : at + block.attn.dim]
                part.copy_(getattr(getattr(known.attn, name), kind))
        block.attn.proj.load_state_dict(known.attn.proj.state_dict())
        for name in ("norm1", "norm2"):
            getattr(block, name).weight.copy_(getattr(known, name).weight)
    visual.merger.ln_q.weight.copy_(old.merger.ln_q.weight)
    for layer, known in zip(visual.merger.mlp, old.merger.mlp, strict=True):
        layer.load_state_dict(known.state_dict())
    for merger in visual.merger_list:
        nn.init.normal_(merger.mlp[2].weight, std=1e-3)


def _start_audio(encoder: Any, old: Any) -> None:
    for layer, known in zip(encoder.layers, old.layers, strict=True):
        layer.load_state_dict(known.state_dict(), strict=False)  # keys have no bias there
        layer.self_attn.k_proj.bias.zero_()
    encoder.ln_post.load_state_dict(old.ln_post.state_dict())
    encoder.proj2.load_state_dict(old.proj.state_dict())


def joined_audio(tokens: Tensor) -> Tensor:
    """[B, 13 n, D] from [B, 25 n, D]: means of pairs of each second; the last token of a second is alone."""
    count, length, width = tokens.shape
    seconds = tokens.view(count, length // 25, 25, width)
    seconds = torch.cat([seconds, seconds[:, :, -1:]], dim=2)
    return seconds.view(count, length // 25 * 13, 2, width).mean(2)
