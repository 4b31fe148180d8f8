"""Rotary ids that are fractions, in an engine whose ids are whole numbers.

Qwen3-Omni gives a frame the id 13 times its seconds, which is a fraction at most frame rates, and so are the ids of all
text after it. vLLM stores whole numbers of 31 bits, adds one for each new token, and looks rotations up in a table with
a row per number. So the fraction is packed above the whole part, where adding one leaves it alone, and `FractionalRope`
computes what the table does not have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from omnisift.serving.clip_layout import PARTS

WHOLE = 1 << 19
"""Packed ids have a whole part below this number: eleven hours of video."""


def pack(positions: Tensor, parts: int) -> Tensor:
    """Return what the engine stores for positions in 1/``parts``, [3, S] int64."""
    if parts == 1:
        return positions
    return positions // parts + (positions % parts) * WHOLE


def unpack(packed: Tensor, parts: int) -> Tensor:
    """Return the positions that `pack` packed, in 1/``parts``."""
    if parts == 1:
        return packed
    packed = packed.long()
    return packed % WHOLE * parts + packed // WHOLE


def position_delta(packed: Tensor) -> int:
    """Return what the engine adds to the index of a new token to get its position.

    New tokens continue after the last prompt token, as in ``generate`` of Transformers 5, even where a video has larger
    ids.

    Args:
        packed: [3, S] of the prompt, as the engine stores it.
    """
    return int(packed[:, -1].max()) + 1 - packed.shape[1]


class FractionalRope(nn.Module):
    """Rotates queries and keys by packed ids, without a table. It replaces vLLM's module in the attention layers.

    Args:
        inverse_frequencies: [R / 2] float32, R the rotated width of a head.
        sections: how many frequencies follow time, row and column, which take turns.
        head_size: width of a head.
        scale: factor of all rotations, 1 but for stretched contexts.
    """

    inverse_frequencies: Tensor
    axis: Tensor

    def __init__(self, inverse_frequencies: Tensor, sections: list[int], head_size: int, scale: float = 1.0) -> None:
        super().__init__()
        self.head_size, self.scale = head_size, scale
        self.register_buffer("inverse_frequencies", inverse_frequencies.float(), persistent=False)
        # [R / 2]: which of the three axes a frequency follows. Rows and columns take every third up to their number.
        index = torch.arange(len(inverse_frequencies))
        axis = index % 3
        for number in (1, 2):
            axis[(axis == number) & (index >= 3 * sections[number])] = 0
        self.register_buffer("axis", axis, persistent=False)

    def forward(self, positions: Tensor, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Rotate.

        Args:
            positions: [3, N] packed, or [N] where the axes are equal.
            query: [N, heads * head_size].
            key: the same with its own number of heads.

        Returns:
            Both, rotated.
        """
        if positions.ndim == 1:
            positions = positions.expand(3, -1)
        ids = (positions % WHOLE).float() + (positions // WHOLE).float() / PARTS
        angles = ids[self.axis].t() * self.inverse_frequencies  # [N, R / 2]
        cosine, sine = (
            (function(angles) * self.scale).to(query.dtype).unsqueeze(1) for function in (torch.cos, torch.sin)
        )
        return self._rotated(query, cosine, sine), self._rotated(key, cosine, sine)

    def _rotated(self, values: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Rotate pairs of the first and second half of the rotated width of each head."""
        heads = values.view(len(values), -1, self.head_size)
        half = cosine.shape[-1]
        first, second, rest = heads[..., :half], heads[..., half : 2 * half], heads[..., 2 * half :]
        turned = [first * cosine - second * sine, second * cosine + first * sine, rest]
        return torch.cat(turned, dim=-1).view_as(values)


def use_fractions(language_model: Any, make: Callable[[Any], FractionalRope]) -> None:
    """Replace the rotary modules of all attention layers; layers that share one share the new one.

    Args:
        language_model: with vLLM's layers, whose attention calls ``rotary_emb(positions, query, key)``.
        make: builds the new module from vLLM's.
    """
    made: dict[Any, FractionalRope] = {}
    for attention in [module for module in language_model.modules() if hasattr(module, "rotary_emb")]:
        rope = attention.rotary_emb
        if rope not in made:
            made[rope] = make(rope)
        attention.rotary_emb = made[rope]
