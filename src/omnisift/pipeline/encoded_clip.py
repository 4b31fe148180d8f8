"""A clip held for several questions: decoded, prepared and encoded once, whatever is asked and however compressed.

The host is not told. While a question is asked, hooks note what its encoders put out; for later questions their
``forward`` is replaced on these very modules by one that hands the same out again, and put back behind the answer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from omnisift.compressors import Compressor
from omnisift.media import Media
from omnisift.pipeline.loading import Host
from omnisift.pipeline.prompt import build_inputs, placeholder, prompt_text
from omnisift.pipeline.stopwatch import encoders_of


class EncodedClip:
    """Made by `Pipeline.encode`; ask about it with any `Pipeline` of the same host. It belongs to that host alone.

    It keeps the decoded clip, the processor's tensors and the encoders' outputs, the latter two on the host's device. A
    method that listens to the encoders (``needs``) makes them run again.
    """

    def __init__(self, host: Host, media: Media, read_seconds: float = 0.0) -> None:
        self.host = host
        self.media = media
        self.read_seconds = read_seconds
        """What decoding took."""
        self._prepared: dict[str, Any] | None = None
        self._ids: Tensor | None = None
        self._outputs: dict[nn.Module, Any] = {}

    @property
    def is_encoded(self) -> bool:
        """Whether a question was asked, so that later ones do without the encoders."""
        return bool(self._outputs)

    def inputs(self, question: str, system: str | None = None) -> dict[str, Any]:
        """As `build_inputs` makes them, on the device of the host; only the first time does the processor see the clip.

        Raises:
            UsageError: the question holds a token that stands for a clip.
        """
        before, after = self._around(question, system)
        if self._prepared is None or self._ids is None:
            inputs = build_inputs(self.host.processor, self.media, question, system)
            self._prepared = dict(inputs.to(self.host.device, self.host.dtype))
            ids = self._prepared["input_ids"]
            self._ids = ids[:, before.shape[1] : ids.shape[1] - after.shape[1]]
        ids = torch.cat([before.to(self._ids.device), self._ids, after.to(self._ids.device)], dim=1)
        return {**self._prepared, "input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def _around(self, question: str, system: str | None) -> tuple[Tensor, Tensor]:
        """[1, N] ids of the prompt before and behind the clip."""
        processor = self.host.processor
        text = prompt_text(processor, self.media, question, system)
        parts = text.split(placeholder(processor, self.media))
        before, after = (processor.tokenizer(part, add_special_tokens=False, return_tensors="pt") for part in parts)
        return before["input_ids"], after["input_ids"]

    @contextmanager
    def encoding(self, compressor: Compressor | None) -> Iterator[None]:
        """The block's prompt is about this clip: note what the encoders put out, or hand it out again."""
        heard = compressor is not None and bool(compressor.needs)
        modules = [module for group in encoders_of(self.host.thinker).values() for module in group]
        with ExitStack() as stack:
            for module in modules:
                if heard or module not in self._outputs:
                    stack.enter_context(self._noting(module))
                else:
                    stack.enter_context(_handing_out(module, self._outputs[module]))
            yield

    @contextmanager
    def _noting(self, module: nn.Module) -> Iterator[None]:
        def note(_module: nn.Module, _args: Any, output: Any) -> None:
            self._outputs[module] = copy.copy(output)  # the host writes into the one that it gets

        handle = module.register_forward_hook(note)
        try:
            yield
        finally:
            handle.remove()


@contextmanager
def _handing_out(module: nn.Module, output: Any) -> Iterator[None]:
    """In the block a call to ``module`` returns ``output``; hooks on it, as of the stopwatch, fire as ever."""
    own = vars(module).get("forward")  # libraries that wrap a module leave theirs there
    module.forward = lambda *_, **__: copy.copy(output)
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own
