"""What must be known in every decoding step after a prompt was cut, kept beside the keys and values it belongs to.

The host goes on with the mask and the positions of the full prompt, while its cache holds only the cut one. The notes
that reconcile the two ride on the cache object: they follow it into copies, and end with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from omnisift.errors import UnsupportedCall
from omnisift.models.prompt_cut import Cut

_NOTE = "omnisift_cached_prompt"


@dataclass
class CachedPrompt:
    """Notes on one cut prompt of B rows. Tensors lie on the device of the language model."""

    width: int
    """Tokens in the cache right after the prompt (``K``)."""
    tail: int
    """How many of its last tokens are text in every row: so far the cache may be cropped (assisted decoding does)."""
    dropped: Tensor
    """[B] int64: tokens that each row lost."""
    next_position: Tensor
    """[B] int64: rotary id of the first new token, as if nothing had been dropped."""
    mask: Tensor | None
    """[B, >= K] int64: 0 on padding in the cache; None if there is none."""

    @classmethod
    def of(cls, cut: Cut, rotary: Tensor, media: Tensor, device: torch.device) -> CachedPrompt:
        """``rotary`` [3, B, S] and ``media`` [B, S] (inside a clip) describe the full prompt, on the CPU."""
        real = cut.was_real
        last = rotary.amax(dim=0).masked_fill(~real, -1).amax(dim=1)
        return cls(
            width=cut.width,
            tail=int((real & ~media).flip(1).long().cumprod(dim=1).sum(dim=1).min()),
            dropped=cut.dropped.to(device),
            next_position=(last + 1).to(device),
            mask=cut.mask(device) if cut.padded else None,
        )

    def positions(self, cached: int, new: int) -> Tensor:
        """[3, B, new] rotary ids of the next ``new`` tokens when the cache holds ``cached``."""
        step = torch.arange(new, device=self.next_position.device) + (cached - self.width)
        return (self.next_position.unsqueeze(1) + step).unsqueeze(0).expand(3, -1, -1)

    def for_rows(self, rows: int) -> CachedPrompt:
        """The same notes for a cache whose rows were each repeated (one prompt, several questions)."""
        times, rest = divmod(rows, len(self.dropped))
        if times == 1 and not rest:
            return self
        if rest:
            raise UnsupportedCall(
                f"a cache of {len(self.dropped)} compressed prompts is used with {rows} rows: "
                "repeat every row equally often"
            )
        return replace(
            self,
            dropped=self.dropped.repeat_interleave(times),
            next_position=self.next_position.repeat_interleave(times),
            mask=None if self.mask is None else self.mask.repeat_interleave(times, dim=0),
        )

    def attention_mask(self, handed: Any, cached: int, new: int, rows: int) -> Tensor | None:
        """[B, cached + new] int64, or None where nothing is masked. ``handed`` is the host's, for the full prompt."""
        if cached < self.width - self.tail:
            raise UnsupportedCall(
                f"the cache was cropped to {cached} tokens, into the video of a compressed prompt of {self.width}: "
                "start a new cache"
            )
        fresh = handed[:, -new:].long() if isinstance(handed, Tensor) and handed.ndim == 2 and new > 1 else None
        if self.mask is None and fresh is None:
            return None
        device = self.dropped.device
        old = torch.ones(rows, cached, dtype=torch.int64, device=device)
        if self.mask is not None:
            known = self.mask[:, :cached]
            old[:, : known.shape[1]] = known
        if fresh is None:
            return torch.cat([old, old.new_ones(rows, new)], dim=1)
        self.mask = torch.cat([old, fresh.to(device)], dim=1)
        return self.mask


def cached_length(cache: Any) -> int:
    """Tokens in a Transformers cache; 0 for None."""
    return 0 if cache is None else int(cache.get_seq_length())


def note(cache: Any, prompt: CachedPrompt) -> None:
    """Write the notes on the cache."""
    setattr(cache, _NOTE, prompt)


def recall(cache: Any, rows: int) -> CachedPrompt | None:
    """The notes of a cache whose prompt was cut, for a call with that many rows, or None."""
    found: CachedPrompt | None = getattr(cache, _NOTE, None)
    if found is None:
        return None
    fitting = found.for_rows(rows)
    if fitting is not found:
        note(cache, fitting)
    return fitting


def forget(cache: Any) -> None:
    """A cache that is filled anew (static caches are reused) starts without notes."""
    if hasattr(cache, _NOTE):
        delattr(cache, _NOTE)
