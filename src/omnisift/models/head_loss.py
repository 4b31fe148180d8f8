"""What a host computes from labels and router logits of a prompt: held back from its head, done on the cut prompt."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from omnisift.errors import UnsupportedCall
from omnisift.models.prompt_cut import PromptCut


@dataclass(frozen=True)
class HeldBack:
    """Arguments of a head that have the full length of the prompt, and who passed them."""

    module: nn.Module
    """The head, or the wrapper of it that was called."""
    labels: Tensor | None
    """[B, S] int64."""
    routes: bool
    """Whether the caller wants the load-balancing loss of a mixture of experts."""
    attention_mask: Any
    """That of the full prompt."""

    def complete(self, head: Any, kwargs: Mapping[str, Any], output: Any, cut: PromptCut | None) -> Any:
        """Add the losses of the cut prompt to the head's output, by the host's own functions.

        Args:
            head: the module that has the language head.
            kwargs: those of the call, with options of the loss function.
            output: what the head returned without labels.
            cut: how the prompt was cut; None if nothing was dropped.

        Raises:
            UnsupportedCall: a tuple was asked for, which doesn't name its router logits.
        """
        losses = dict[str, Any]()
        if self.labels is not None:
            labels = self.labels if cut is None else cut.labels(self.labels)
            # Arguments that forward does not name are for the loss function (num_items_in_batch).
            named = set(inspect.signature(type(head).forward).parameters)
            options = {name: value for name, value in kwargs.items() if name not in named and name != "return_dict"}
            vocab_size = head.config.get_text_config().vocab_size
            losses["loss"] = head.loss_function(logits=output[0], labels=labels, vocab_size=vocab_size, **options)
        if self.routes:
            if isinstance(output, tuple):
                raise UnsupportedCall("output_router_logits with a tuple as output: leave return_dict out")
            losses["aux_loss"] = aux_loss = router_loss(head, output.router_logits, self._mask(cut))
            if "loss" in losses:
                loss = losses["loss"]
                losses["loss"] = loss + router_weight(head) * aux_loss.to(loss.device)
        if isinstance(output, tuple):
            return (losses["loss"], *output)
        return type(output)(**losses, **output)

    def _mask(self, cut: PromptCut | None) -> Tensor | None:
        """The tokens that count: all but padding."""
        if cut is not None:
            return cut.mask
        return self.attention_mask if isinstance(self.attention_mask, Tensor) else None


def uncuttable(arguments: Mapping[str, Any]) -> str | None:
    """Why a prompt with video can't be cut with these arguments of the head; None if it can."""
    if arguments.get("labels") is not None and arguments.get("shift_labels") is not None:
        return "shift_labels can't be cut with the prompt: pass labels instead"
    if isinstance(arguments.get("logits_to_keep"), Tensor):
        return "logits_to_keep as places in the full prompt can't be cut with it: pass a number, or leave it out"
    return None


def wants_router_loss(config: Any, arguments: Mapping[str, Any]) -> bool:
    """Whether a call asks for router logits, of which the head computes a loss with the mask of the full prompt."""
    asked = arguments.get("output_router_logits")
    return bool(getattr(config.get_text_config(), "output_router_logits", False) if asked is None else asked)


def router_loss(head: nn.Module, router_logits: Any, mask: Tensor | None) -> Tensor:
    """The host's own load-balancing loss.

    Args:
        head: the module that has the language head.
        router_logits: [B * K, experts] of each layer.
        mask: [B, K], False or 0 on padding; None if there is none.
    """
    text: Any = head.config.get_text_config()  # type: ignore[union-attr,operator]
    function: Any = inspect.getmodule(type(head)).load_balancing_loss_func  # type: ignore[union-attr]
    return torch.as_tensor(function(router_logits, text.num_experts, text.num_experts_per_tok, mask))


def router_weight(head: nn.Module) -> float:
    """Weight of the load-balancing loss in the loss of the host."""
    text: Any = head.config.get_text_config()  # type: ignore[union-attr,operator]
    return float(text.router_aux_loss_coef)
