"""Run a vision encoder of Qwen on a part of the places of a video.

Nothing of the encoder is changed. Its ``forward`` takes the positions of patches, the bounds of frames and windows and
the places of learned position embeddings as named arguments, and computes them for the full grid otherwise. Here they
are those of the full grid at the patches that are encoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnisift.errors import UnsupportedModel, UsageError
from omnisift.models.host_arguments import bind_arguments

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
        "cu_seqlens": _bounds(merge**2 * chosen.view(steps, -1).sum(dim=1)),
        **_windows(encoder, grids, chosen),
    }
    if not bool(chosen.all()):
        patches = patches[rows.to(patches.device)]
    arguments = {name: value.to(patches.device) for name, value in arguments.items()}
    output = encoder(patches, grid_thw=grids.to(patches.device), **arguments)
    return output.pooler_output, list(getattr(output, "deepstack_features", None) or [])


class FrameMemory:
    """Encode the places of one clip that changed, and give the tokens of all places.

    A place that is not encoded has the tokens of the frame in which it last was. Where the encoder attends within whole
    frames, what it read at that place then stands in, so that the places that are encoded see a whole frame. Where it
    attends within windows nothing stands in: encode these as a whole.

    Args:
        encoder: the vision encoder of a host.
    """

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder
        self._last = dict[str, Tensor]()
        """Of the latest frame [places, ...]: what each attention reads, and the outputs."""

    def encode(self, patches: Tensor, grid: Sequence[int], encoded: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode the next time steps of the clip.

        Args:
            patches, grid, encoded: as `encode` takes them. All places of the clip's first time step are encoded.

        Returns:
            As `encode`, for all places: [t * rows * columns, D] each.

        Raises:
            UnsupportedModel: as for `encode`.
            UsageError: as for `encode`, or a place was never encoded, or frames have another size than those before.
        """
        steps, places = encoded.shape[0], encoded[0].numel()
        chosen = encoded.flatten(1).cpu()
        known = next(iter(self._last.values()), chosen.new_zeros(0))
        if len(known) not in (0, places) or not (len(known) or bool(chosen[0].all())):
            raise UsageError(f"{int(chosen[0].sum())} of {places} places are encoded, after frames of {len(known)}: "
                             "encode all places of a clip's first time step, and frames of one size")  # fmt: skip
        # Where each place is from: a token of this call, behind those of the latest frame of the call before.
        number = chosen.flatten().cumsum(dim=0).view(steps, places) - 1 + places
        source = torch.where(chosen, number, torch.arange(places)).cummax(dim=0).values
        if not bool(chosen.any()):
            outputs = [value[source.flatten()] for name, value in self._last.items() if name.startswith("output")]
            return outputs[0], outputs[1:]
        with self._stand_ins(grid, chosen, source):
            embeddings, levels = encode(self._encoder, patches, grid, encoded)
        outputs = [self._fill(f"output {n}", value, source) for n, value in enumerate([embeddings, *levels])]
        return outputs[0], outputs[1:]

    @contextmanager
    def _stand_ins(self, grid: Sequence[int], chosen: Tensor, source: Tensor) -> Iterator[None]:
        """Let the encoder attend within whole frames, where it attends to more than windows."""
        unit, places = int(self._encoder.spatial_merge_size) ** 2, chosen.shape[1]
        order = _windows(self._encoder, torch.tensor([list(grid)]), chosen.flatten()).get("window_index")
        order = torch.arange(int(chosen.sum())) if order is None else order
        # The encoder has the tokens in an order of its own. Frames of which nothing is encoded need no attention.
        inside = torch.cat([torch.arange(places), places + order.argsort()])[source]
        seen = chosen.any(dim=1)
        back = patches_of(torch.nonzero(chosen[seen].flatten(), as_tuple=True)[0][order], unit)
        bounds = _bounds(torch.full((int(seen.sum()),), places * unit))

        def fill(name: str, value: Tensor) -> Tensor:
            return self._fill(name, value.view(-1, unit, value.shape[-1]), inside, seen).flatten(0, 1)

        def before(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            arguments = bind_arguments(module, args, kwargs)
            states = arguments["hidden_states"]
            cosine, sine = arguments["position_embeddings"]
            return (), {
                **arguments,
                "hidden_states": fill(name, states),
                "position_embeddings": (fill("cosine", cosine), fill("sine", sine)),
                "cu_seqlens": bounds.to(states.device),
                "max_seqlen": places * unit,
            }

        with ExitStack() as stack:
            for number, block in enumerate(self._encoder.blocks):
                if number in getattr(self._encoder, "fullatt_block_indexes", range(len(self._encoder.blocks))):
                    # Before other hooks, which read the bounds.
                    hook = partial(before, f"block {number}")
                    handle = block.attn.register_forward_pre_hook(hook, prepend=True, with_kwargs=True)
                    stack.callback(handle.remove)
                    handle = block.attn.register_forward_hook(lambda _module, _args, output: output[back])
                    stack.callback(handle.remove)
            yield

    def _fill(self, name: str, values: Tensor, source: Tensor, seen: Tensor | None = None) -> Tensor:
        """[f * places, ...] of the ``seen`` frames, from those of the latest frame and the new ``values`` [n, ...]."""
        known = self._last.get(name)
        if known is None:
            known = values.new_zeros(source.shape[1], *values.shape[1:])
        both, source = torch.cat([known, values]), source.to(values.device)
        self._last[name] = both[source[-1]]
        return both[(source if seen is None else source[seen.to(values.device)]).flatten()]


def window_side(encoder: Any) -> int:
    """Tokens along one side of the windows that a vision encoder attends within; 1 if it only attends within frames."""
    if set(range(len(encoder.blocks))) <= set(getattr(encoder, "fullatt_block_indexes", range(len(encoder.blocks)))):
        return 1
    return int(encoder.window_size // encoder.patch_size // encoder.spatial_merge_size)


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


def _windows(encoder: Any, grids: Tensor, chosen: Tensor) -> dict[str, Tensor]:
    """The order of the ``chosen`` [T] bool tokens by windows, and the bounds of these; nothing without windows."""
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
    return {"window_index": number[order[inside]], "cu_window_seqlens": _bounds(merge**2 * counts)}


def _bounds(sizes: Tensor) -> Tensor:
    """[N + 1] int32: where parts of these ``sizes`` begin and end; empty ones are left out."""
    return F.pad(sizes[sizes > 0].cumsum(dim=0), (1, 0)).to(torch.int32)
