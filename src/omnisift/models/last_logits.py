"""The logits of the last position alone, for hosts whose ``forward`` computes those of the whole prompt."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from omnisift.models.base import adapter_for
from omnisift.models.own_hooks import OwnHook


@contextmanager
def last_logits(model: nn.Module) -> Iterator[None]:
    """Let the language head of a host see the last position alone in the block, which is all that ``generate`` reads.

    The Omni thinkers compute the logits of every token of a prompt: 6 GB for a minute of video in 7B and bfloat16. The
    other families take ``logits_to_keep``, which ``generate`` passes to them, so nothing is done for these. Rows of a
    batch must be padded on the left.

    Args:
        model: the host.
    """
    head: Any = adapter_for(model).parts.head
    output: nn.Module | None = head.get_output_embeddings()
    if output is None or "logits_to_keep" in inspect.signature(head.forward).parameters:
        yield
        return
    hook = OwnHook.before(output, _keep_last)
    try:
        yield
    finally:
        hook.remove()


def _keep_last(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    hidden, *rest = args  # [B, L, D]
    return (hidden[:, -1:], *rest), kwargs
