"""Run a vision encoder of Qwen on a part of the places of a video.

Nothing of the encoder is changed. Its ``forward`` takes the positions of patches, the bounds of frames and windows and
the places of learned position embeddings as named arguments, and computes them for the full grid otherwise. Here they
are those of the full grid at the patches that are encoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.errors import UnsupportedModel, UsageError

_ENCODERS = (
    "Qwen2_5OmniVisionEncoder",
    "Qwen2_5_VisionTransformerPretrainedModel",
    "Qwen2VisionTransformerPretrainedModel",
    "Qwen3OmniMoeVisionEncoder",
    "Qwen3VLMoeVisionModel",
    "Qwen3VLVisionModel",
    "Qwen3_5MoeVisionModel",
    "Qwen3_5VisionModel",
)
"""Classes of Transformers whose ``forward`` takes these arguments."""


def why_not_partial(encoder: Any) -> str | None:
    """Why `encode` can't run a vision encoder; None if it can."""
    kind = type(encoder)
    if kind.__module__.partition(".")[0] == "transformers" and kind.__name__ in _ENCODERS:
        return None
    return f"{kind.__name__} is not one of {', '.join(_ENCODERS)} of Transformers"


def encode(encoder: Any, patches: Tensor, grid: Sequence[int], encoded: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Encode some places of a video, each as if the others of its frame did not exist.

    Args:
        encoder: the vision encoder of a host.
        patches: [t * h * w, C] float on the encoder's device: those of all places, in the order of the processor.
        grid: (t, h, w): time steps, and rows and columns of patches.
        encoded: [t, rows, columns] bool: which tokens are encoded; a token is a square of patches.

    Returns:
        [n, D], the embeddings of the n encoded tokens in the order of the prompt, and [n, D] for each level of features
        that enter later layers of the language model; most families have none. With all places encoded they are those
        of the encoder itself.

    Raises:
        UnsupportedModel: the encoder does not take the arguments.
        UsageError: ``patches`` or ``encoded`` do not fit the grid, or no token is encoded.
    """
    reason = why_not_partial(encoder)
    if reason:
        raise UnsupportedModel(f"a part of the places can't be encoded, as {reason}: encode all of them")
    merge = int(encoder.spatial_merge_size)
    steps, height, width = (int(size) for size in grid)
    shape = (steps, height // merge, width // merge)
    if encoded.shape != shape or len(patches) != steps * height * width or not bool(encoded.any()):
        got = f"{len(patches)} patches and {int(encoded.sum())} of {tuple(encoded.shape)} tokens"
        raise UsageError(f"the grid {list(grid)} needs {steps * height * width} patches and some of {shape} tokens, "
                         f"got {got}: pass the patches of all places, and encode at least one token")  # fmt: skip
    chosen, grids = encoded.flatten().cpu(), torch.tensor([[steps, height, width]])
    rows = patches_of(torch.nonzero(chosen, as_tuple=True)[0], merge**2)
    arguments = {
        **_positions(encoder, grids, rows),
        "cu_seqlens": bounds_of(merge**2 * chosen.view(steps, -1).sum(dim=1)),
        **window_order(encoder, grids, chosen),
    }
    if not bool(chosen.all()):
        patches = patches[rows.to(patches.device)]
    arguments = {name: value.to(patches.device) for name, value in arguments.items()}
    output = encoder(patches, grid_thw=grids.to(patches.device), **arguments)
    return output.pooler_output, list(getattr(output, "deepstack_features", None) or [])


def window_side(encoder: Any) -> int:
    """Tokens along one side of the windows that a vision encoder attends within; 1 if it only attends within frames."""
    if len(frame_layers(encoder)) == len(encoder.blocks):
        return 1
    return int(encoder.window_size // encoder.patch_size // encoder.spatial_merge_size)


def frame_layers(encoder: Any) -> list[int]:
    """Numbers of the layers in which a vision encoder attends within whole frames."""
    everything = range(len(encoder.blocks))
    return sorted(set(getattr(encoder, "fullatt_block_indexes", everything)) & set(everything))


def patches_of(tokens: Tensor, size: int) -> Tensor:
    """[n * size] int64: the patches of tokens [n], of ``size`` patches each."""
    return (size * tokens[:, None] + torch.arange(size)).flatten()


def _positions(encoder: Any, grids: Tensor, rows: Tensor) -> dict[str, Tensor]:
    """Rotary positions of the patches ``rows`` [N], and of learned embeddings those around each patch."""
    from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

    merge = int(encoder.spatial_merge_size)
    positions = {"position_ids": get_vision_position_ids(grids, merge)[rows]}
    if getattr(encoder, "pos_embed", None) is None:
        return positions
    indices, weights = get_vision_interpolation_indices_and_weights(
        grids,
        num_grid_per_side=encoder.num_grid_per_side,
        mode=encoder.interpolation_mode,
        align_corners=encoder.interpolation_align_corners,
        spatial_merge_size=merge,
    )
    return {**positions, "interp_indices": indices[rows], "interp_weights": weights[rows]}


def window_order(encoder: Any, grids: Tensor, chosen: Tensor) -> dict[str, Tensor]:
    """The arguments of an encoder with windows: the order of tokens by windows, and the bounds of these.

    Args:
        encoder: the vision encoder.
        grids: [1, 3] int64: (t, h, w) in patches.
        chosen: [T] bool: which tokens are encoded.

    Returns:
        ``window_index``, [n] int64 numbers among the encoded tokens, and ``cu_window_seqlens``; or nothing.
    """
    if getattr(encoder, "window_size", None) is None:
        return {}
    from transformers.vision_utils import get_vision_window_index

    merge = int(encoder.spatial_merge_size)
    order, bounds = get_vision_window_index(grids, merge, encoder.window_size, encoder.patch_size)
    sizes = bounds.diff().long() // merge**2
    window = torch.arange(len(sizes)).repeat_interleave(sizes)
    # The chosen tokens, window by window, numbered in the order of the prompt.
    inside = chosen[order]
    number = chosen.cumsum(dim=0) - 1
    counts = torch.bincount(window[inside], minlength=len(sizes))
    return {"window_index": number[order[inside]], "cu_window_seqlens": bounds_of(merge**2 * counts)}


def bounds_of(sizes: Tensor) -> Tensor:
    """[N + 1] int32: where parts of these ``sizes`` begin and end; empty ones are left out."""
    return F.pad(sizes[sizes > 0].cumsum(dim=0), (1, 0)).to(torch.int32)
