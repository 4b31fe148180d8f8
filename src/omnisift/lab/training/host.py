"""Access to the parts of nano, independent of Transformers' layout (see `omnisift.models.qwen2_5_omni`)."""

from __future__ import annotations

from typing import Any

from omnisift.models.qwen2_5_omni import Qwen25OmniAdapter


def core_of(model: Any) -> Any:
    """The module that has ``visual`` and ``audio_tower`` and computes rotary positions."""
    return Qwen25OmniAdapter(model).parts.core


def language_model_of(model: Any) -> Any:
    """The text model: embeddings, decoder layers and final norm."""
    return Qwen25OmniAdapter(model).parts.language_model
