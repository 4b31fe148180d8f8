"""What a language model gets besides embeddings, positions, mask and cache, and how it is cut with the tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from omnisift.errors import UnsupportedCall
from omnisift.models.prompt_cut import PromptCut


class Side(Enum):
    """How an argument of a language model lies along its prompt."""

    TOKENS = "tokens"
    """[B, S, ...]: one entry for each token."""
    MARKED = "marked"
    """A list of [N, ...]: one entry for each token that ``visual_pos_masks`` marks, in flat order."""


_MARKS = "visual_pos_masks"
_COMMON = {"mm_token_type_ids": Side.TOKENS}
"""Rules for arguments that some hosts hand on without reading them."""
_CUT_ELSEWHERE = frozenset({
    "attention_mask", "cache", "cu_seq_lens_k", "cu_seq_lens_q", "input_ids", "inputs_embeds", "past_key_values",
    "position_ids",
})  # fmt: skip


def cut_side_inputs(
    cut: PromptCut, arguments: Mapping[str, Any], rules: Mapping[str, Side], gate: Tensor | None = None
) -> dict[str, Any]:
    """Cut the arguments of a language model that have a rule, and refuse those that should have one.

    A token that a method merged keeps the entries of the token that represents it.

    Args:
        cut: which tokens are kept.
        arguments: those for the full prompt, by name.
        rules: of the family.
        gate: [L], `Selection.gate`.

    Returns:
        New values for the arguments that were cut.

    Raises:
        UnsupportedCall: an argument without a rule has the length of the prompt, or is a list of tensors.
    """
    rules = {**_COMMON, **rules}
    result: dict[str, Any] = {}
    for name, value in arguments.items():
        rule = rules.get(name)
        if value is None or name in _CUT_ELSEWHERE:
            continue
        if rule is Side.TOKENS:
            result[name] = cut_tokens(cut, value)
        elif rule is Side.MARKED:
            result[name] = cut_marked(cut, arguments[_MARKS], value, gate)
        elif _may_follow_prompt(value, cut.kept.shape[1]):
            raise UnsupportedCall(
                f"the language model got {name}, which has the length of the prompt and no rule to be cut by: leave "
                "the argument out, or detach"
            )
    return result


def cut_tokens(cut: PromptCut, full: Tensor) -> Tensor:
    """[B, K, ...] from [B, S, ...]: the entries of the kept tokens, and zeros on padding."""
    index = cut.source.to(full.device, non_blocking=True)
    shorter = full.expand(len(index), *full.shape[1:]).flatten(0, 1)[index]
    mask = cut.mask.to(full.device, non_blocking=True)
    return shorter * mask.view(*index.shape, *[1] * (shorter.ndim - 2)).to(shorter.dtype)


def gate_side_inputs(
    arguments: Mapping[str, Any], rules: Mapping[str, Side], gate: Tensor | None
) -> dict[str, list[Tensor]]:
    """Multiply the entries of marked tokens by the gate where nothing is cut; arguments as `cut_side_inputs` has them.

    The gate is the gradient of a token's place in the prompt, and its entries enter the language model as it does.
    """
    marked = [name for name, rule in rules.items() if rule is Side.MARKED and arguments.get(name) is not None]
    if gate is None or not marked:
        return {}
    places = torch.nonzero(arguments[_MARKS].flatten().cpu(), as_tuple=True)[0]
    return {name: _gated(list(arguments[name]), gate, places) for name in marked}


def cut_marked(cut: PromptCut, marks: Tensor, rows: Iterable[Tensor], gate: Tensor | None = None) -> list[Tensor]:
    """Cut lists of entries of marked tokens.

    Args:
        cut: which tokens are kept.
        marks: [B, S] bool: the tokens that have an entry.
        rows: [N, ...] each, one entry for each mark in flat order.
        gate: [L], a factor for each token of the flat full batch.

    Returns:
        [M, ...] each: the entries of the kept tokens among them, times their factors.
    """
    flat = marks.flatten().cpu()
    # The entry of a token is its rank among the marked ones, and a cut keeps their order.
    rank = flat.cumsum(0) - 1
    source = cut.source[cut.mask]
    places = source[flat[source]]
    chosen = rank[places]
    shorter = [part[chosen.to(part.device, non_blocking=True)] for part in rows]
    return shorter if gate is None else _gated(shorter, gate, places)


def _gated(rows: Iterable[Tensor], gate: Tensor, places: Tensor) -> list[Tensor]:
    """Entries times the factors of the tokens at ``places``."""
    factor = gate[places.to(gate.device, non_blocking=True)]
    return [part * factor.to(part.device, part.dtype).view(-1, *[1] * (part.ndim - 1)) for part in rows]


def continued_side_inputs(
    arguments: Mapping[str, Any], rules: Mapping[str, Side], start: int, text: int
) -> dict[str, Any]:
    """Side inputs of a prompt that repeats the beginning of another one and continues with text.

    Args:
        arguments: those of the language model for the other prompt, by name.
        rules: of the family.
        start: tokens that are repeated, among them all that are marked.
        text: tokens that follow.
    """
    rules = {**_COMMON, **rules}
    result: dict[str, Any] = {}
    for name, value in arguments.items():
        rule = rules.get(name)
        if value is None or rule is None:
            continue
        result[name] = value
        if rule is Side.TOKENS:
            tail = value.new_zeros(len(value), text, *value.shape[2:])
            result[name] = torch.cat([value[:, :start], tail], dim=1)
    return result


def _may_follow_prompt(value: Any, length: int) -> bool:
    """Whether a value without a rule may have an entry for each token."""
    if isinstance(value, (list, tuple)):
        return any(isinstance(part, Tensor) for part in value)
    return isinstance(value, Tensor) and length in value.shape
