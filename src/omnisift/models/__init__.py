"""Host models: one adapter per Hugging Face family, and one `attach` for all of them."""

from omnisift.models.adapter import Adapter, Parts
from omnisift.models.attachment import Attachment
from omnisift.models.base import ADAPTERS, adapter_class, adapter_for, attach
from omnisift.models.compression import Compression

__all__ = ["ADAPTERS", "Adapter", "Attachment", "Compression", "Parts", "adapter_class", "adapter_for", "attach"]
