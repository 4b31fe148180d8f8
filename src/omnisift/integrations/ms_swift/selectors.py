"""The selector inside the model, where the released code has it: ``thinker.compressor``.

So PEFT finds it (``--modules_to_save compressor``), a full checkpoint holds it as ``thinker.compressor.*``, and it goes
wherever the model goes. Outside the prefixes of the two encoders, which ms-swift freezes.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from omnisift.compressors import needs_selector
from omnisift.errors import CompressorError
from omnisift.integrations.ms_swift.settings import PREFIX, SwiftSettings
from omnisift.models.qwen2_5_omni import Qwen25OmniAdapter
from omnisift.pipeline.loading import read_selector
from omnisift.vgas import VGAS, VGASConfig

logger = logging.getLogger(__name__)
NEW = "new"
SEED = 0
"""Of a new selector: the same in every process and every run."""


def give_selector(model: nn.Module, source: str, settings: SwiftSettings) -> None:
    """Put the selector that ``settings`` ask for into ``model``, the full one or its thinker, loaded from ``source``.

    In float32, whatever the model has: a step of 1e-5 is lost in bfloat16's eight bits. Raises `CompressorError` where
    the checkpoint has none, `OmniSiftError` of the kind that loading raises for a folder that does not fit.
    """
    if not needs_selector(settings.compressor):
        return
    thinker: Any = Qwen25OmniAdapter(model).parts.head
    embeddings = thinker.get_input_embeddings().weight
    selector: Any = _selector(source, settings, embeddings.shape[1])
    thinker.compressor = selector.to(device=embeddings.device, dtype=torch.float32)
    logger.info("selector: %s", settings.selector or source)


def selector_in(model: nn.Module) -> VGAS | None:
    """The selector that `give_selector` put there, or what PEFT made of it; None if there is none."""
    held: Any = getattr(Qwen25OmniAdapter(model).parts.head, "compressor", None)
    found = [] if held is None else [part for part in held.modules() if isinstance(part, VGAS)]
    return found[-1] if found else None  # PEFT keeps the original, and behind it the copy that learns


def _selector(source: str, settings: SwiftSettings, width: int) -> VGAS:
    if settings.selector == NEW:
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            return VGAS(VGASConfig(input_size=width))
    try:
        return read_selector(source, source, settings.selector, width)
    except CompressorError:
        raise CompressorError(
            f"{source} has no selector weights; set {PREFIX}SELECTOR to a folder of them (omnisift distill makes one), "
            f"to {NEW} for random ones that learn, or {PREFIX}COMPRESSOR to a training-free compressor, as stvp"
        ) from None
