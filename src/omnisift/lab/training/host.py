"""Access to the parts of nano, independent of Transformers' layout (see `omnisift.models`)."""

from __future__ import annotations

from typing import Any

from omnisift.models import adapter_for


def core_of(model: Any) -> Any:
    """The module that has ``visual`` and ``audio_tower`` and computes rotary positions."""
    return adapter_for(model).parts.core


def language_model_of(model: Any) -> Any:
    """The text model: embeddings, decoder layers and final norm."""
    return adapter_for(model).parts.language_model
