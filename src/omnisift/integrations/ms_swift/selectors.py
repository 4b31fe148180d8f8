"""Put the selector into the model as ``thinker.compressor``, where the released code has it.

There PEFT finds it (``--modules_to_save compressor``), a full checkpoint holds it as ``thinker.compressor.*``, and
ms-swift does not freeze it, because the prefixes of the two encoders don't match.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from omnisift.compressors import needs_selector
from omnisift.errors import CompressorError
from omnisift.integrations.ms_swift.settings import PREFIX, SwiftSettings
from omnisift.models import adapter_for
from omnisift.pipeline.loading import read_selector
from omnisift.vgas import VGAS, VGASConfig

logger = logging.getLogger(__name__)
NEW = "new"
"""Value of the setting ``selector`` for random weights."""
SEED = 0
"""Seed of a new selector, the same in every process and every run."""


def add_selector(model: nn.Module, source: str, settings: SwiftSettings) -> None:
    """Add the selector to a model, in float32: bfloat16 has too few bits for a step of 1e-5.

    Args:
        model: the full model or its thinker.
        source: folder or hub id that the model was loaded from.
        settings: says which selector, and whether the compressor has one.

    Raises:
        CompressorError: the checkpoint has no selector.
        OmniSiftError: the folder of a selector does not fit.
    """
    if not needs_selector(settings.compressor):
        return
    thinker: Any = adapter_for(model).parts.head
    embeddings = thinker.get_input_embeddings().weight
    selector: Any = _read_or_make(source, settings, embeddings.shape[1])
    thinker.compressor = selector.to(device=embeddings.device, dtype=torch.float32)
    logger.info("selector: %s", settings.selector or source)


def find_selector(model: nn.Module) -> VGAS | None:
    """Return the selector that `add_selector` added, or its trainable copy that PEFT made; None if there is none."""
    module: Any = getattr(adapter_for(model).parts.head, "compressor", None)
    selectors = [] if module is None else [part for part in module.modules() if isinstance(part, VGAS)]
    return selectors[-1] if selectors else None  # PEFT keeps the original first and the trainable copy last


def _read_or_make(source: str, settings: SwiftSettings, hidden_size: int) -> VGAS:
    if settings.selector == NEW:
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            return VGAS(VGASConfig(input_size=hidden_size))
    try:
        return read_selector(source, source, settings.selector, hidden_size)
    except CompressorError:
        raise CompressorError(
            f"{source} has no selector weights; set {PREFIX}SELECTOR to a folder of them (omnisift distill makes one), "
            f"to {NEW} for random ones to train, or {PREFIX}COMPRESSOR to a training-free method, for example stvp"
        ) from None
