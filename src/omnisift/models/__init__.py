"""Host models: one adapter per Hugging Face family, one `attach` for all."""

from omnisift.models.adapter import Adapter, Parts
from omnisift.models.attachment import Attachment
from omnisift.models.base import ADAPTERS, attach
from omnisift.models.compression import Compression

__all__ = ["ADAPTERS", "Adapter", "Attachment", "Compression", "Parts", "attach"]
