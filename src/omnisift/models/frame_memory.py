"""Encode what changed in a video, and give the tokens of the rest again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from omnisift.errors import UsageError
from omnisift.models.host_arguments import bind_arguments
from omnisift.models.partial_encoding import bounds_of, encode, frame_layers, patches_of, window_order


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
        order = window_order(self._encoder, torch.tensor([list(grid)]), chosen.flatten()).get("window_index")
        order = torch.arange(int(chosen.sum())) if order is None else order
        # The encoder has the tokens in an order of its own. Frames of which nothing is encoded need no attention.
        inside = torch.cat([torch.arange(places), places + order.argsort()])[source]
        seen = chosen.any(dim=1)
        back = patches_of(torch.nonzero(chosen[seen].flatten(), as_tuple=True)[0][order], unit)
        bounds = bounds_of(torch.full((int(seen.sum()),), places * unit))

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
            for number in frame_layers(self._encoder):
                attention = self._encoder.blocks[number].attn
                # Before other hooks, which read the bounds.
                hook = partial(before, f"block {number}")
                handle = attention.register_forward_pre_hook(hook, prepend=True, with_kwargs=True)
                stack.callback(handle.remove)
                handle = attention.register_forward_hook(lambda _module, _args, output: output[back])
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
