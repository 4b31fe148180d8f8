"""What the host hands from module to module, in all its forms, and its repair for a cut prompt.

``generate`` hands masks of two or four dimensions, or none, and positions of one, three or four rows, or none.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from omnisift.errors import UnsupportedCall
from omnisift.models.cached_prompt import CachedPrompt, cached_length
from omnisift.models.prompt_cut import Cut
from omnisift.tokens import Selection


def by_name(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call to ``module`` by name (a fresh dict)."""
    if not args:
        return dict(kwargs)
    names = list(inspect.signature(type(module).forward).parameters)[1:]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def continued(known: CachedPrompt, arguments: dict[str, Any], cached: int) -> dict[str, Any]:
    """Arguments of ``core`` behind a cut prompt: positions go on from the full length, whatever the cache's own is."""
    handed, new = arguments.get("position_ids"), arguments["input_ids"].shape[1]
    if handed is None:
        return {**arguments, "position_ids": known.positions(cached, new)}
    again = _passed_again(known, arguments, cached) if new > 1 else 0
    if not again:
        return arguments
    shorter = {**arguments, "position_ids": handed[..., again:], "input_ids": arguments["input_ids"][:, again:]}
    if arguments.get("inputs_embeds") is not None:
        shorter["inputs_embeds"] = arguments["inputs_embeds"][:, again:]
    return shorter


def _passed_again(known: CachedPrompt, arguments: dict[str, Any], cached: int) -> int:
    """How many leading tokens the cache already holds.

    Given a whole conversation with its cache, ``generate`` skips as many tokens as are cached. Those are fewer than
    were read, so what it hands on begins too early, by what the cut took; the positions tell.
    """
    handed, mask, new = arguments["position_ids"], arguments.get("attention_mask"), arguments["input_ids"].shape[1]
    rotary = (handed.unsqueeze(0) if handed.ndim == 2 else handed[-3:])[..., -new:]
    early = rotary[0] < known.positions(cached, 1)[0].to(handed.device)
    if isinstance(mask, Tensor) and mask.ndim == 2:
        early = early & (mask[:, -new:] != 0)
    # Tokens of a new video stand at (time, height, width): never take those for old ones.
    plain = (rotary == rotary[:1]).all(dim=0)
    counts = torch.stack([early.sum(dim=1), (early & plain).long().cumprod(dim=1).sum(dim=1), known.dropped]).cpu()
    again = int(counts[0].max())
    if again and bool((counts != again).any() | (again == new)):
        raise UnsupportedCall(
            "tokens behind a compressed prompt begin before its end: with past_key_values pass only the new input_ids "
            "and an attention_mask of the full length; don't split a prompt with video (prefill_chunk_size), and don't "
            "attach to an assistant model"
        )
    return again


def repaired(known: CachedPrompt, arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the language model behind a cut prompt: mask as long as the cache, text positions without a gap."""
    rows, new = arguments["inputs_embeds"].shape[:2]
    cached = cached_length(arguments["past_key_values"])
    mask = known.attention_mask(arguments.get("attention_mask"), cached, new, rows)
    positions = arguments.get("position_ids")
    if isinstance(positions, Tensor) and positions.ndim == 3 and positions.shape[0] == 4:
        text = positions[:1] - known.dropped.to(positions.device).view(1, -1, 1)
        positions = torch.cat([text, positions[1:]])
    return {**arguments, "attention_mask": mask, "position_ids": positions}


def real_tokens(mask: Any, rows: int, length: int) -> Tensor:
    """[B, S] bool on the CPU: not padding. Takes the masks that ``generate`` makes; refuses others than causal ones."""
    for part in mask.values() if isinstance(mask, dict) else [mask]:
        if part is None:
            continue
        if isinstance(part, Tensor) and part.ndim == 2:
            two: Tensor = (part[:, -length:] != 0).cpu()
            return two
        if isinstance(part, Tensor) and part.ndim == 4 and part.shape[1] == 1:
            return _real_in_causal(part[:, 0, :, :length]).expand(rows, length).cpu()
        raise UnsupportedCall("attention_mask of an unknown form with video: pass [batch, length]")
    return torch.ones(rows, length, dtype=torch.bool)


def _real_in_causal(mask: Tensor) -> Tensor:
    """[B, S] bool from a prepared [B, S, S] mask, boolean or additive.

    In a causal mask the last query sees all but padding. Padding itself sees as much, or nothing, or (what the host
    writes to keep kernels from dividing by zero) everything.
    """
    seen = mask if mask.dtype == torch.bool else mask == 0
    real = seen[:, -1]
    causal = torch.ones_like(seen[0]).tril() & real.unsqueeze(1)
    different = (seen != causal).any(dim=2) & ~(seen.all(dim=2) & ~real)
    if bool(different.any()):
        raise UnsupportedCall("an attention_mask that is not causal can't be cut with the prompt: pass [batch, length]")
    return real


def shortened(
    arguments: dict[str, Any], cut: Cut, selection: Selection, handed: Tensor | None, media: Tensor
) -> tuple[dict[str, Any], CachedPrompt]:
    """Arguments of a language model for a cut prompt, and the notes for its cache.

    ``handed`` are its positions as `positions_handed` gives them; ``media`` [B, S] bool marks tokens inside clips.
    """
    embeds: Tensor = arguments["inputs_embeds"]
    rows, length = embeds.shape[:2]
    if handed is None:
        handed = torch.arange(length).expand(1, rows, -1)
    rotary = handed.expand(3, -1, -1) if len(handed) == 1 else handed
    shorter = {
        **arguments,
        **_cut_packing(cut, arguments),
        "inputs_embeds": cut.embeds(embeds, selection),
        "position_ids": cut.positions(rotary).to(embeds.device),
        "attention_mask": _cut_mask(cut, arguments.get("attention_mask"), embeds.device),
    }
    return shorter, CachedPrompt.of(cut, rotary[-3:], media, embeds.device)


def _cut_mask(cut: Cut, handed: Any, device: torch.device) -> Tensor | None:
    """[B, K], or None where none is needed. A prepared 4-D mask goes: the language model makes its own, causal."""
    plain = isinstance(handed, Tensor) and handed.ndim == 2
    return cut.mask(device) if plain or cut.padded else None


def positions_handed(positions: Any, rows: int, length: int) -> Tensor | None:
    """[R, B, S] int64 on the CPU with R = 1, 3 or 4; None if the caller gave none."""
    if positions is None:
        return None
    if positions.ndim == 2:
        positions = positions.unsqueeze(0)
    expanded: Tensor = positions.cpu().expand(-1, rows, length)
    return expanded


def _cut_packing(cut: Cut, arguments: dict[str, Any]) -> dict[str, Any]:
    """Borders of packed sequences for variable-length attention kernels, which would else read past the end."""
    found: dict[str, Any] = {}
    for side in ("q", "k"):
        borders = arguments.get(f"cu_seq_lens_{side}")
        if borders is None:
            continue
        found[f"cu_seq_lens_{side}"] = shorter = cut.boundaries(borders)
        found[f"max_length_{side}"] = int(shorter.diff().max())
    return found
