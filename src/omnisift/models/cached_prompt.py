"""State that decoding needs after a prompt was cut, stored on the KV cache that it belongs to.

The host keeps the mask and the positions of the full prompt while its cache holds only the cut one. The state that
reconciles the two is an attribute of the cache object: copies of the cache keep it, and it ends with the cache.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from omnisift.errors import UnsupportedCall
from omnisift.models.prompt_cut import PromptCut

_ATTRIBUTE = "omnisift_cached_prompt"


@dataclass
class CachedPrompt:
    """One cut prompt of B rows in a cache. Tensors are on the device of the language model."""

    width: int
    """Tokens in the cache right after the prompt (``K``)."""
    text_tail: int
    """How many of its last tokens are text in every row. The cache may be cropped by that much, as in assisted
    decoding."""
    dropped: Tensor
    """[B] int64: tokens dropped from each row."""
    next_position: Tensor
    """[B]: rotary position of the first new token, counted from the full prompt."""
    padding_mask: Tensor | None
    """[B, >= K] int64: 0 on padding in the cache; None without padding."""
    rotary_rows: int = 3
    """As `Adapter.rotary_rows`."""
    shift: Tensor | None = None
    """[B]: by how much positions are lower than those that the host counts, as `Placement.shift`; None if they are
    those of the host."""

    @classmethod
    def of(
        cls,
        cut: PromptCut,
        position_ids: Tensor,
        in_clip: Tensor,
        device: torch.device,
        shift: Tensor | None = None,
    ) -> CachedPrompt:
        """Describe a prompt that was just cut.

        Args:
            cut: how it was cut.
            position_ids: [1 or 3, B, S] on the CPU, of the full prompt.
            in_clip: [B, S] bool on the CPU: tokens inside clips.
            device: of the language model.
            shift: `Placement.shift`, where lines were moved.
        """
        # New tokens continue after the largest position of the full prompt.
        last = position_ids.amax(dim=0).masked_fill(~cut.full_mask, -1).amax(dim=1)
        return cls(
            width=cut.width,
            text_tail=int((cut.full_mask & ~in_clip).flip(1).long().cumprod(dim=1).sum(dim=1).min()),
            dropped=cut.dropped.to(device, non_blocking=True),
            next_position=(last + 1).to(device, non_blocking=True),
            padding_mask=cut.attention_mask(device) if cut.padded else None,
            rotary_rows=len(position_ids),
            shift=None if shift is None else shift.to(device, non_blocking=True),
        )

    def next_positions(self, cached: int, new: int) -> Tensor:
        """[B, new]: positions of the next ``new`` tokens when the cache holds ``cached``; of text, so one row."""
        # Each cached token after the prompt has advanced the position by one.
        step = torch.arange(new, device=self.next_position.device) + (cached - self.width)
        return self.next_position.unsqueeze(1) + step

    def position_ids(self, cached: int, new: int) -> Tensor:
        """The same as hosts take them: [3, B, new], or [B, new] where positions have one row."""
        positions = self.next_positions(cached, new)
        return positions if self.rotary_rows == 1 else positions.expand(self.rotary_rows, -1, -1)

    def for_rows(self, rows: int) -> CachedPrompt:
        """Return the state of a cache whose rows were each repeated to ``rows`` (one prompt, several questions).

        Raises:
            UnsupportedCall: ``rows`` is not a multiple of B.
        """
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
            padding_mask=None if self.padding_mask is None else self.padding_mask.repeat_interleave(times, dim=0),
            shift=None if self.shift is None else self.shift.repeat_interleave(times),
        )

    def attention_mask(self, host_mask: Any, cached: int, new: int, rows: int) -> Tensor | None:
        """Build the mask of a decoding step, as long as the cache and the new tokens.

        Args:
            host_mask: the host's ``attention_mask`` for the full prompt, in any form.
            cached: tokens in the cache.
            new: tokens in this call.
            rows: rows of the batch.

        Returns:
            [B, cached + new] int64; None if nothing is masked.

        Raises:
            UnsupportedCall: the cache was cropped into the video.
        """
        if cached < self.width - self.text_tail:
            raise UnsupportedCall(
                f"the cache was cropped to {cached} tokens, into the video of a compressed prompt of {self.width}: "
                "start a new cache"
            )
        # Of the host's mask only the columns of the new tokens apply: the others have the full length.
        new_mask = None
        if isinstance(host_mask, Tensor) and host_mask.ndim == 2 and new > 1:
            new_mask = host_mask[:, -new:].long()
        if self.padding_mask is None and new_mask is None:
            return None
        # Cached columns: padding of the prompt, then tokens decoded since.
        device = self.dropped.device
        old_mask = torch.ones(rows, cached, dtype=torch.int64, device=device)
        if self.padding_mask is not None:
            prompt_mask = self.padding_mask[:, :cached]
            old_mask[:, : prompt_mask.shape[1]] = prompt_mask
        if new_mask is None:
            return torch.cat([old_mask, old_mask.new_ones(rows, new)], dim=1)
        # Several new tokens may bring padding of their own; later steps must mask it too.
        self.padding_mask = torch.cat([old_mask, new_mask.to(device, non_blocking=True)], dim=1)
        return self.padding_mask


def find_cache(values: Any) -> Any:
    """Return the KV cache among the arguments or in the output of a call; None if there is none.

    Transformers 5.24 names it ``cache``, earlier releases ``past_key_values``.
    """
    if not isinstance(values, Mapping):
        return None
    return next((values[name] for name in ("cache", "past_key_values") if values.get(name) is not None), None)


def cache_argument(model: nn.Module, cache: Any) -> dict[str, Any]:
    """Return ``cache`` as the keyword argument that the forward of ``model`` takes, by the name of its release."""
    names = inspect.signature(type(model).forward).parameters
    return {"cache" if "cache" in names else "past_key_values": cache}


def cached_length(cache: Any) -> int:
    """Number of tokens in a Transformers cache; 0 for None."""
    return 0 if cache is None else int(cache.get_seq_length())


def store_prompt(prompt: CachedPrompt | None, kwargs: dict[str, Any], output: Any) -> None:
    """Store the state of a cut prompt on its cache after a call, during which the host may have created the cache.

    Args:
        prompt: the state; None if the call cut nothing.
        kwargs: keyword arguments of the call.
        output: what it returned.
    """
    cache = find_cache(kwargs)
    cache = find_cache(output) if cache is None else cache
    if prompt is not None and cache is not None:
        setattr(cache, _ATTRIBUTE, prompt)


def stored_prompt(cache: Any, rows: int) -> CachedPrompt | None:
    """Return the state of a cache for a call with ``rows`` rows; None if its prompt was not cut.

    Raises:
        UnsupportedCall: as `CachedPrompt.for_rows`, or the rows of a quantised cache were repeated, of which
            Transformers repeats the latest tokens alone.
    """
    prompt: CachedPrompt | None = getattr(cache, _ATTRIBUTE, None)
    if prompt is None:
        return None
    repeated = prompt.for_rows(rows)
    if repeated is not prompt:
        _check_repeated(cache)
        setattr(cache, _ATTRIBUTE, repeated)
    return repeated


def _check_repeated(cache: Any) -> None:
    from transformers import QuantizedCache

    if isinstance(cache, QuantizedCache):
        raise UnsupportedCall(
            "the rows of a quantised cache can't be repeated: read a prompt for each question, or use the default cache"
        )


def clear_prompt(cache: Any) -> None:
    """Remove the state of an earlier prompt, since static caches are used again."""
    if hasattr(cache, _ATTRIBUTE):
        delattr(cache, _ATTRIBUTE)
