"""Host models: one adapter per Hugging Face family, and one `attach` for all of them."""

from omnisift.models.adapter import Adapter, Parts, Prompt
from omnisift.models.attachment import Attachment
from omnisift.models.base import ADAPTERS, adapter_class, adapter_for, attach, model_class
from omnisift.models.compression import Compression
from omnisift.models.grid_adapter import GridAdapter
from omnisift.models.layout import Layout, PromptLines
from omnisift.models.side_inputs import Side

__all__ = [
    "ADAPTERS",
    "Adapter",
    "Attachment",
    "Compression",
    "GridAdapter",
    "Layout",
    "Parts",
    "Prompt",
    "PromptLines",
    "Side",
    "adapter_class",
    "adapter_for",
    "attach",
    "model_class",
]
