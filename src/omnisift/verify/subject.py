"""The model under test with its prompt, and hooks that watch what reaches its language model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from omnisift.budget import Budget, Counts
from omnisift.compressors import COMPRESSORS, make_compressor
from omnisift.compressors.base import Compressor
from omnisift.errors import OmniSiftError
from omnisift.models import adapter_for, attach
from omnisift.models.selector import new_selector
from omnisift.tokens import Selection, TokenStream
from omnisift.verify.hosts import ModelSpec
from omnisift.verify.prompts import ClipShape
from omnisift.vgas import VGAS

DEFAULT = "omnisift"
"""The method that checks of the hooks attach."""
RETAIN = 0.35
"""The paper's main setting, which all methods reach."""
TEXT = 40
"""Tokens of the question and the chat template."""

NO_TIME = "no time left"
"""Why a check or a row is left out after the time limit."""

Call = dict[str, Any]


class Skipped(OmniSiftError):
    """A check that this machine can't run."""


class Failed(OmniSiftError):
    """A check whose rule is broken."""


@dataclass(frozen=True)
class Subject:
    """A model under test with a prompt."""

    spec: ModelSpec
    model: Any
    inputs: Call
    selector: VGAS

    @classmethod
    def make(
        cls,
        spec: ModelSpec,
        device: torch.device,
        dtype: torch.dtype,
        *,
        attn_implementation: str = "sdpa",
        shallow: bool = False,
        clip: ClipShape | None = None,
    ) -> Subject:
        """Build a model, a selector and a prompt about a clip, by default the first of the table."""
        model = spec.build(device, dtype, attn_implementation, shallow=shallow)
        inputs = spec.prompt(model.config, clip or spec.clips[0], TEXT, device, dtype)
        return cls(spec, model, inputs, random_selector(model))

    def compressor(self, name: str, retain: float = RETAIN) -> Compressor:
        """Make a method for this model."""
        return make_compressor(name, Budget(retain), selector=self.selector).eval()

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's weights and inputs."""
        dtype: torch.dtype = self.inputs["pixel_values_videos"].dtype
        return dtype

    @property
    def methods(self) -> list[str]:
        """Names of the methods that the model's family can run."""
        supplies = adapter_for(self.model).supplies
        return [name for name, method in COMPRESSORS.items() if method.needs <= supplies]

    def stream(self) -> TokenStream:
        """Return what a method sees of the prompt, with all extras that the adapter supplies."""
        recorder = _Recorder(adapter_for(self.model).supplies)
        with torch.inference_mode(), attach(self.model, recorder):
            self.model(**self.inputs, use_cache=False)
        return recorder.streams[0]


class _Recorder(Compressor):
    """Keep the stream of a prompt."""

    name: ClassVar[str] = "recorder"

    def __init__(self, needs: frozenset[str]) -> None:
        super().__init__(1.0)
        self.needs = needs
        self.streams: list[TokenStream] = []

    def forward(self, stream: TokenStream) -> Selection:
        self.streams.append(replace(stream, embeds=stream.embeds.clone()))
        return Selection(torch.ones(len(stream), dtype=torch.bool, device=stream.embeds.device))

    def select(self, stream: TokenStream, counts: Counts) -> Selection:  # noqa: ARG002
        """Keep everything."""
        return self.forward(stream)


def random_selector(model: Any) -> VGAS:
    """Return a selector with random weights for a model, on its device and in its dtype."""
    language_model: Any = adapter_for(model).parts.language_model
    weight: Tensor = language_model.get_input_embeddings().weight
    selector: Any = new_selector(weight.shape[1], time_embedding=False, seed=0)
    moved: VGAS = selector.to(device=weight.device, dtype=weight.dtype).eval()
    return moved


class FixedDecision(Compressor):
    """A decision made before."""

    name: ClassVar[str] = "fixed"

    def __init__(self, keep: Tensor) -> None:
        super().__init__(1.0)
        self._keep = keep

    def forward(self, stream: TokenStream) -> Selection:  # noqa: ARG002, D102
        return Selection(self._keep)

    def select(self, stream: TokenStream, counts: Counts) -> Selection:  # noqa: ARG002
        """Return the decision."""
        return Selection(self._keep)


@contextmanager
def recorded_selection(subject: Subject) -> Iterator[list[Tensor]]:
    """Attach the default method and record which tokens it keeps."""
    masks: list[Tensor] = []
    compressor = subject.compressor(DEFAULT)
    handle = compressor.register_forward_hook(lambda _module, _args, selection: masks.append(selection.keep))
    try:
        with attach(subject.model, compressor):
            yield masks
    finally:
        handle.remove()


@contextmanager
def recorded_calls(module: nn.Module) -> Iterator[list[Call]]:
    """Record the named arguments of each call of a language model, without its cache."""
    calls: list[Call] = []
    left_out = {"past_key_values", "cache", "use_cache"}

    def record(_module: nn.Module, _args: tuple[Any, ...], kwargs: Call) -> None:
        calls.append({name: value for name, value in kwargs.items() if name not in left_out})

    handle = module.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


@contextmanager
def compression_region(
    model: Any, compressor: Compressor | None, begin: Callable[[], object], end: Callable[[], object]
) -> Iterator[None]:
    """Attach a method, and call ``begin`` and ``end`` around all that it does between encoders and language model.

    Args:
        model: the host.
        compressor: the method; None attaches nothing.
        begin: called before the hooks of the attachment; also in each decoding step.
        end: called after them.
    """
    module = adapter_for(model).parts.language_model
    first = module.register_forward_pre_hook(lambda *_: begin() and None)
    attachment = None if compressor is None else attach(model, compressor)
    last = module.register_forward_pre_hook(lambda *_: end() and None)
    try:
        yield
    finally:
        last.remove()
        if attachment is not None:
            attachment.detach()
        first.remove()


def release(device: torch.device) -> None:
    """Return memory of deleted models to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
