"""The contract of all families: hosts, methods, and oracles in which no code of the library decides anything."""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
import transformers
from tests.helpers.contract import made
from tests.helpers.families import Clip, Family, Row
from tests.helpers.models import WIDTH
from torch import Tensor

import omnisift
from omnisift.budget import Budget
from omnisift.compressors import Compressor
from omnisift.models import Attachment, adapter_for
from omnisift.models.prompt_cut import PromptCut

_PER_TOKEN = ("ple_input_ids",)
"""Further arguments of language models with a state, which have an entry for each token."""
QUARTER, ALL = Budget(retain=0.25), Budget(retain=1.0)
THREE: list[Row] = [[5, Clip(4, 2, 4, 4), 6], [9, Clip(3, 2, 2, 3), 21], [3, Clip(2, 4, 4, 2), 30]]
FOUND: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
"""Family -> check -> the difference of each case."""


def write_found(path: str) -> None:
    """Write the number of cases and the largest difference of each check."""
    families = {
        name: {check: {"cases": len(all_of), "largest": max(all_of)} for check, all_of in sorted(checks.items())}
        for name, checks in FOUND.items()
    }
    content = {"transformers": transformers.__version__, "torch": torch.__version__, "families": families}
    Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@functools.cache
def host(family: Family) -> Any:
    """The model, called once before: some hosts register hooks of their own at their first call."""
    model = family.model()
    with torch.no_grad():
        model(**family.inputs(*THREE[:1]), use_cache=False)
    return model


def compressor(family: Family, kind: str, budget: Budget = QUARTER) -> Compressor:
    scored = "omnisift" if family.audio_rate else "stvp"
    return made({"scored": scored, "merging": "uniform:mode=pool", "clip-wide": "evs"}.get(kind, kind), budget, WIDTH)


def note(family: Family, check: str, difference: float) -> None:
    FOUND[str(family)][check].append(difference)
    assert difference <= family.tolerance, f"{check}: off by {difference:.1e}"


def expected_logits(
    family: Family, model: Any, inputs: dict[str, Any], keep: Tensor, merged: Tensor | None = None
) -> Tensor:
    """[B, S, V]: logits of the untouched host that does not see dropped tokens.

    Args:
        family: of the host.
        model: the host, without an attachment.
        inputs: the prompt at full length.
        keep: [B, S] bool; padding counts as kept.
        merged: [K, D]: embeddings in place of those of the kept tokens, in flat order.
    """

    def replace(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if merged is None:
            return None
        embeds = kwargs["inputs_embeds"].clone()
        embeds[keep] = merged
        return args, {**kwargs, "inputs_embeds": embeds}

    handle = adapter_for(model).parts.language_model.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        return (_row_by_row if family.stateful else _masked)(family, model, inputs, keep)
    finally:
        handle.remove()


def _masked(family: Family, model: Any, inputs: dict[str, Any], keep: Tensor) -> Tensor:
    """At full length, with a mask in which no query sees a dropped token."""
    seen = family.seen(keep & inputs["attention_mask"].bool(), inputs)
    mask: Any = {kind: torch.zeros(part.shape).masked_fill(~part, torch.finfo(torch.float32).min)[:, None]
                 for kind, part in seen.items()}  # fmt: skip
    positions = family.positions(model, inputs)
    mask = mask if len(mask) > 1 else mask["full_attention"]
    logits: Tensor = model(**{**inputs, "attention_mask": mask}, position_ids=positions, use_cache=False).logits
    return logits


def _row_by_row(family: Family, model: Any, inputs: dict[str, Any], keep: Tensor) -> Tensor:
    """For layers with a state: the language model reads the kept tokens of one row at a time, gathered by a loop."""
    given: dict[str, Any] = {}
    language_model = adapter_for(model).parts.language_model
    handle = language_model.register_forward_pre_hook(lambda m, a, k: given.update(k), with_kwargs=True)
    found = torch.zeros_like(model(**inputs, use_cache=False).logits)
    handle.remove()
    # Hooks run in the order of registration: `given` has the merged embeddings, which must not be replaced again.
    hooks = list(language_model._forward_pre_hooks.items())
    language_model._forward_pre_hooks.clear()
    for row in range(len(keep)):
        places = [place for place in range(keep.shape[1]) if keep[row, place] and inputs["attention_mask"][row, place]]
        states = language_model(
            inputs_embeds=given["inputs_embeds"][row : row + 1, places],
            position_ids=family.positions(model, inputs)[..., row : row + 1, places],
            attention_mask=torch.ones(1, len(places)).long(),
            use_cache=False,
            **{name: given[name][row : row + 1, places] for name in _PER_TOKEN if given.get(name) is not None},
        )
        logits = states.logits if hasattr(states, "logits") else model.lm_head(states.last_hidden_state)
        found[row, places] = logits[0]
    language_model._forward_pre_hooks.update(hooks)
    return found


@torch.no_grad()
def read(model: Any, inputs: dict[str, Any], method: Compressor) -> tuple[Tensor, Attachment, PromptCut, Tensor | None]:
    """Logits of the cut prompt, the attachment, its cut, and the merged embeddings."""
    merged: list[Tensor | None] = []
    watch = method.register_forward_hook(lambda module, args, output: merged.append(output.embeds))
    with omnisift.attach(model, method) as attachment:
        logits = model(**inputs, use_cache=False).logits
    watch.remove()
    assert attachment.cut is not None
    return logits, attachment, attachment.cut, merged[0]


def apart(logits: Tensor, full: Tensor, cut: PromptCut) -> float:
    """Largest difference between logits of the cut prompt and those at the old places of its tokens."""
    at = cut.source[cut.mask]
    return float((logits[cut.mask] - full.flatten(0, 1)[at]).abs().max())
