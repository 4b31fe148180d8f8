"""Read the arguments that a host passes between its modules, and rewrite them for a cut prompt.

``generate`` passes masks of two or four dimensions, or none, and positions of one, three or four rows, or none.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from omnisift.errors import UnsupportedCall
from omnisift.models.cached_prompt import CachedPrompt, cached_length, find_cache
from omnisift.models.prompt_cut import PromptCut
from omnisift.models.side_inputs import Side, cut_side_inputs
from omnisift.tokens import Selection


def bind_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return all arguments of a call to ``module`` by name, in a new dict."""
    if not args:
        return dict(kwargs)
    names = list(inspect.signature(type(module).forward).parameters)[1:]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def read_mask(attention_mask: Any, rows: int, length: int) -> Tensor:
    """Read which tokens are not padding from any mask that ``generate`` makes.

    Args:
        attention_mask: [B, >= S], [B, 1, S, >= S], a dict of these, or None.
        rows: ``B``.
        length: ``S``.

    Returns:
        [B, S] bool on the CPU, False on padding.

    Raises:
        UnsupportedCall: the mask is not causal, or of another form.
    """
    # Transformers passes one mask per kind of layer in a dict. Those of layers with a window don't tell the padding:
    # their last query may not see the first token.
    masks = [attention_mask]
    if isinstance(attention_mask, dict):
        whole = [mask for kind, mask in attention_mask.items() if not kind.startswith("sliding")]
        masks = whole or list(attention_mask.values())
    for mask in masks:
        if mask is None:
            continue
        if isinstance(mask, Tensor) and mask.ndim == 2:
            padding: Tensor = (mask[:, -length:] != 0).cpu()
            return padding
        if isinstance(mask, Tensor) and mask.ndim == 4 and mask.shape[1] == 1:
            return _read_causal_mask(mask[:, 0, :, :length]).expand(rows, length).cpu()
        raise UnsupportedCall("attention_mask of an unknown form with video: pass [batch, length]")
    return torch.ones(rows, length, dtype=torch.bool)


def _read_causal_mask(mask: Tensor) -> Tensor:
    """[B, S] bool from a prepared [B, S, S] mask, boolean or additive. Raises `UnsupportedCall` if it is not causal."""
    # In a causal mask the last query sees all tokens but padding.
    visible = mask if mask.dtype == torch.bool else mask == 0
    not_padding = visible[:, -1]
    causal = torch.ones_like(visible[0]).tril() & not_padding.unsqueeze(1)
    # Rows of padding may also be all visible: the host writes that to keep kernels from dividing by zero.
    different = (visible != causal).any(dim=2) & ~(visible.all(dim=2) & ~not_padding)
    if bool(different.any()):
        raise UnsupportedCall("an attention_mask that is not causal can't be cut with the prompt: pass [batch, length]")
    return not_padding


def read_positions(position_ids: Any, rows: int, length: int) -> Tensor | None:
    """Read positions of any form as [R, B, S] on the CPU with R = 1, 3 or 4; None if the caller passed none.

    They are whole numbers, except those of Qwen3-Omni.
    """
    if position_ids is None:
        return None
    if position_ids.ndim == 2:
        position_ids = position_ids.unsqueeze(0)
    expanded: Tensor = position_ids.cpu().expand(-1, rows, length)
    return expanded


def cut_arguments(
    arguments: dict[str, Any],
    cut: PromptCut,
    selection: Selection,
    position_ids: Tensor,
    attention_mask: Any,
    side_inputs: Mapping[str, Side],
) -> dict[str, Any]:
    """Cut the arguments of a language model.

    Args:
        arguments: those for the full prompt, by name.
        cut: which tokens are kept.
        selection: the compressor's decision, for merged embeddings and gates.
        position_ids: from `rotary_rows`.
        attention_mask: that of the cut prompt.
        side_inputs: the rules of the family.

    Returns:
        The arguments for the cut prompt.

    Raises:
        UnsupportedCall: an argument has the length of the prompt and no rule.
    """
    inputs_embeds: Tensor = arguments["inputs_embeds"]
    cut_positions = cut.position_ids(position_ids)
    if len(cut_positions) == 1:
        cut_positions = cut_positions[0]  # hosts with one row take [B, K]
    return {
        **arguments,
        **_cut_packing(cut, arguments),
        **cut_side_inputs(cut, arguments, side_inputs, selection.gate),
        "inputs_embeds": cut.inputs_embeds(inputs_embeds, selection),
        "position_ids": cut_positions.to(inputs_embeds.device, non_blocking=True),
        "attention_mask": attention_mask,
    }


def rotary_rows(position_ids: Tensor | None, rows: int, length: int, wanted: int = 3) -> Tensor:
    """[R, B, S]: the positions that a language model counts for itself where `read_positions` found fewer rows.

    ``wanted`` is the number of rows of the family, `Adapter.rotary_rows`; R is that, or one more with a row of text.
    """
    # Without positions the language model would count; the kept tokens must keep those of the full prompt.
    if position_ids is None:
        position_ids = torch.arange(length).expand(1, rows, -1)
    return position_ids.expand(wanted, -1, -1) if len(position_ids) == 1 else position_ids


def cut_mask(cut: PromptCut, attention_mask: Any, device: torch.device) -> Tensor | None:
    """[B, K], or None where none is needed. A prepared 4-D mask is dropped: the language model makes a causal one."""
    two_dimensional = isinstance(attention_mask, Tensor) and attention_mask.ndim == 2
    return cut.attention_mask(device) if two_dimensional or cut.padded else None


def _cut_packing(cut: PromptCut, arguments: dict[str, Any]) -> dict[str, Any]:
    """Sequence lengths for variable-length attention kernels, which would otherwise read past the end."""
    lengths: dict[str, Any] = {}
    for side in ("q", "k"):
        cu_seq_lens = arguments.get(f"cu_seq_lens_{side}")
        if cu_seq_lens is None:
            continue
        lengths[f"cu_seq_lens_{side}"] = shorter = cut.cu_seq_lens(cu_seq_lens)
        lengths[f"max_length_{side}"] = int(shorter.diff().max())
    return lengths


def with_attention_bias(
    arguments: dict[str, Any], selection: Selection, attention_mask: Tensor, cut: PromptCut | None
) -> dict[str, Any]:
    """Add ``selection.bias``, which fades tokens in training instead of dropping them, to the attention mask.

    Args:
        arguments: those of the call to the language model, already cut.
        selection: the compressor's decision on the full prompt.
        attention_mask: [B, S] bool on the CPU, False on padding, before ``cut``.
        cut: how the prompt was cut; None if nothing was dropped.

    Returns:
        ``arguments`` unchanged if there is no bias; else a copy with an additive mask [B, 1, K, K] in the dtype of the
        embeddings. Kernels that take no such mask (flash attention) refuse it, with an error from Transformers.
    """
    if selection.bias is None:
        return arguments
    inputs_embeds: Tensor = arguments["inputs_embeds"]
    rows, length = inputs_embeds.shape[:2]
    bias = selection.bias
    if cut is not None:
        attention_mask, bias = cut.mask, bias[cut.source.flatten().to(inputs_embeds.device, non_blocking=True)]
    # Causal and without padding: 0 where a query may look, the dtype's minimum elsewhere.
    visible = torch.ones(length, length, dtype=torch.bool).tril() & attention_mask[:, None, :]
    additive = torch.zeros(rows, 1, length, length, dtype=inputs_embeds.dtype, device=inputs_embeds.device)
    additive = additive.masked_fill(
        ~visible[:, None].to(inputs_embeds.device, non_blocking=True), torch.finfo(inputs_embeds.dtype).min
    )
    # The bias belongs to the key, so it is the same for every query.
    return {**arguments, "attention_mask": additive + bias.to(inputs_embeds.dtype).view(rows, 1, 1, length)}


def resume_arguments(prompt: CachedPrompt, arguments: dict[str, Any], cached: int) -> dict[str, Any]:
    """Rewrite the arguments of ``core`` for a call that continues a cut prompt.

    Args:
        prompt: the state of the cache.
        arguments: those of the call, by name.
        cached: tokens in the cache.

    Returns:
        Arguments whose positions continue from the full length, without tokens that the cache already holds.

    Raises:
        UnsupportedCall: the new tokens overlap the cached ones in another way.
    """
    position_ids, new = arguments.get("position_ids"), arguments["input_ids"].shape[1]
    # The host would count from the length of the cache, which is shorter than the prompt was.
    if position_ids is None:
        return {**arguments, "position_ids": prompt.position_ids(cached, new)}
    # It counts lines of text that were moved as if they were where it read them.
    if prompt.shift is not None:
        position_ids = shifted(position_ids, prompt.shift)
        arguments = {**arguments, "position_ids": position_ids}
    repeated = _count_repeated(prompt, arguments, cached) if new > 1 else 0
    if not repeated:
        return arguments
    resumed = {
        **arguments,
        "position_ids": position_ids[..., repeated:],
        "input_ids": arguments["input_ids"][:, repeated:],
    }
    if arguments.get("inputs_embeds") is not None:
        resumed["inputs_embeds"] = arguments["inputs_embeds"][:, repeated:]
    return resumed


def shifted(position_ids: Tensor, shift: Tensor) -> Tensor:
    """Lower the rotary rows of positions [R, B, N] or [B, N] by ``shift`` [B]; a row of text positions stays."""
    lower = position_ids - shift.to(position_ids.device, non_blocking=True).unsqueeze(1)
    if position_ids.ndim == 3 and position_ids.shape[0] == 4:
        return torch.cat([position_ids[:1], lower[1:]])
    return lower


def _count_repeated(prompt: CachedPrompt, arguments: dict[str, Any], cached: int) -> int:
    """How many leading tokens of the call the cache already holds.

    ``generate`` skips as many tokens of a conversation as are cached. Fewer are cached than were read, so what it
    passes on begins too early, by the number of dropped tokens. The positions show it.
    """
    position_ids, new = arguments["position_ids"], arguments["input_ids"].shape[1]
    rotary = (position_ids.unsqueeze(0) if position_ids.ndim == 2 else position_ids[-3:])[..., -new:]
    # Tokens with positions before the end of the full prompt were read already.
    early = rotary[0] < prompt.next_positions(cached, 1).to(position_ids.device, non_blocking=True)
    attention_mask = arguments.get("attention_mask")
    if isinstance(attention_mask, Tensor) and attention_mask.ndim == 2:
        early = early & (attention_mask[:, -new:] != 0)
    # Tokens of a new video have different times, heights and widths: they are never counted as old ones.
    is_text = (rotary == rotary[:1]).all(dim=0)
    counts = torch.stack([early.sum(dim=1), (early & is_text).long().cumprod(dim=1).sum(dim=1), prompt.dropped]).cpu()
    repeated = int(counts[0].max())
    # The early tokens must lead, be text, be as many as were dropped, and not be all there is.
    if repeated and bool((counts != repeated).any() | (repeated == new)):
        raise UnsupportedCall(
            "tokens after a compressed prompt begin before its end: with a cache pass only the new input_ids "
            "and an attention_mask of the full length; don't split a prompt with video (prefill_chunk_size), and don't "
            "attach to an assistant model"
        )
    return repeated


def decode_arguments(prompt: CachedPrompt, arguments: dict[str, Any]) -> dict[str, Any]:
    """Rewrite the arguments of the language model for a call that continues a cut prompt.

    Args:
        prompt: the state of the cache.
        arguments: those of the call, by name.

    Returns:
        Arguments with a mask as long as the cache, and a row of text positions that counts on from the cut length.
    """
    rows, new = arguments["inputs_embeds"].shape[:2]
    cached = cached_length(find_cache(arguments))
    attention_mask = prompt.attention_mask(arguments.get("attention_mask"), cached, new, rows)
    position_ids = arguments.get("position_ids")
    # A gap between cached and new text positions would read as the start of another packed sequence.
    if isinstance(position_ids, Tensor) and position_ids.ndim == 3 and position_ids.shape[0] == 4:
        text = position_ids[:1] - prompt.dropped.to(position_ids.device, non_blocking=True).view(1, -1, 1)
        position_ids = torch.cat([text, position_ids[1:]])
    return {**arguments, "attention_mask": attention_mask, "position_ids": position_ids}
