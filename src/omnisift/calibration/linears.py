"""The linear layers of a language model, and the modality of each token that they read."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from omnisift.errors import UnsupportedCall, UnsupportedModel
from omnisift.models import Adapter
from omnisift.models.attachment import attachment_of
from omnisift.models.cached_prompt import cached_length, find_cache
from omnisift.models.host_arguments import bind_arguments, read_mask
from omnisift.models.own_hooks import OwnHook
from omnisift.models.short_prompt import short_prompt_of
from omnisift.tokens import Modality

PADDING = -1
"""Stands for the modality of padding, whose activations mean nothing."""


def linear_layers(adapter: Adapter) -> dict[str, nn.Linear]:
    """Return the linear layers of the language model, without encoders and head, by their names in it.

    Weights that are no layer of their own, such as fused experts, are not among them.

    Raises:
        UnsupportedModel: it has none.
    """
    modules = adapter.parts.language_model.named_modules()
    found = {name: module for name, module in modules if isinstance(module, nn.Linear)}
    if not found:
        raise UnsupportedModel(
            f"the language model of {type(adapter.parts.head).__name__} has no torch.nn.Linear: nothing to calibrate"
        )
    return found


class TokenModality:
    """Knows the modality of each token that the language model reads, in its ``with`` block.

    The tokens are those that an attached compressor kept; without one, all of them. What is decoded is text. Audio
    outside a video counts as `omnisift.Compression.modality` says, and as audio where nothing is attached.
    """

    given: Tensor | None
    """[B, K] int8 on the CPU, -1 on padding: set it before each call where the language model is called by itself,
    without the model around it. None reads the call."""

    def __init__(self, adapter: Adapter) -> None:
        """Hook the model in the ``with`` block only.

        Args:
            adapter: of the model.
        """
        self.given = None
        self._adapter = adapter
        self._call: tuple[Mapping[str, Any], int] | None = None
        self._current: Tensor | None = None
        self._hooks: list[OwnHook] = []

    def __enter__(self) -> TokenModality:
        parts = self._adapter.parts
        self._hooks = [
            OwnHook.before(parts.core, self._enter_core),
            OwnHook.after(parts.core, self._leave_core, always_call=True),
            OwnHook.before(parts.language_model, self._enter_language_model),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._call = self._current = None

    def of(self, activations: Tensor, name: str) -> Tensor:
        """[N] int8 on the CPU: modality of the token of each row, `PADDING` on padding.

        Args:
            activations: [..., C], the input of a linear layer, one row of C values for each token.
            name: of the layer.

        Raises:
            UnsupportedCall: it is not known which tokens these are.
        """
        # Read lazily: all hooks that cut the prompt have run when the first layer is called.
        if self._current is None:
            self._current = self._read()
        count = activations.shape[:-1].numel()
        if self._current.numel() != count:
            raise UnsupportedCall(
                f"{name} reads {count} tokens of a prompt of {self._current.numel()}, and it is not known which: ask "
                "about a file or decoded clip, and not about one that holds a prompt (hold_bytes=0)"
            )
        return self._current.flatten()

    def _enter_core(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = bind_arguments(module, args, kwargs)
        self._call = arguments, cached_length(find_cache(arguments))

    def _leave_core(self, module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG002
        self._call = None

    def _enter_language_model(self, module: nn.Module, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        self._current = None

    def _read(self) -> Tensor:
        """[B, K] int8 of the present call."""
        if self.given is not None:
            return self.given
        arguments, cached = self._call or ({}, 0)
        input_ids = arguments.get("input_ids")
        if input_ids is None:
            raise UnsupportedCall(
                "the language model was called without input_ids, which tell the modality of its tokens: call the "
                "model around it, with input_ids"
            )
        rows, length = input_ids.shape
        # A single new token is text.
        if cached and length == 1:
            return torch.full((rows, 1), int(Modality.TEXT), dtype=torch.int8)
        language_model = self._adapter.parts.language_model
        # A clip that was compressed before looks like text to the host.
        short = short_prompt_of(language_model)
        if short is not None and not cached:
            return short.modality.unsqueeze(0)
        attachment = attachment_of(language_model)
        compression = None if attachment is None or cached else attachment.last
        # Kept tokens, in the order in which the language model reads them.
        if attachment is not None and compression is not None and attachment.cut is not None:
            kept = compression.modality.flatten()[attachment.cut.source]
            return kept.masked_fill(~attachment.cut.mask, PADDING)
        # All tokens.
        modality = self._adapter.modality(input_ids.cpu(), arguments) if compression is None else compression.modality
        return modality.masked_fill(~read_mask(arguments.get("attention_mask"), rows, length), PADDING)


def layer_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the activations with which a linear layer is called."""
    activations: Tensor = args[0] if args else kwargs["input"]
    return activations
