"""OmniSIFT: run audio-video language models at a quarter of their tokens.

Importing this package loads nothing else: each public name is fetched from its room when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omnisift.budget import Budget, from_rho
    from omnisift.compressors import make_compressor
    from omnisift.errors import OmniSiftError
    from omnisift.models import Compression, attach
    from omnisift.pipeline import Answer, Pipeline, Report, load
    from omnisift.tokens import Modality, Selection, TokenStream

__version__ = "0.1.0"

_ROOM_OF = {
    "Answer": "pipeline",
    "Budget": "budget",
    "Compression": "models",
    "Modality": "tokens",
    "OmniSiftError": "errors",
    "Pipeline": "pipeline",
    "Report": "pipeline",
    "Selection": "tokens",
    "TokenStream": "tokens",
    "attach": "models",
    "from_rho": "budget",
    "load": "pipeline",
    "make_compressor": "compressors",
}

__all__ = [
    "Answer",
    "Budget",
    "Compression",
    "Modality",
    "OmniSiftError",
    "Pipeline",
    "Report",
    "Selection",
    "TokenStream",
    "attach",
    "from_rho",
    "load",
    "make_compressor",
]


def __getattr__(name: str) -> Any:
    """Fetch a public name from its room (PEP 562)."""
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'omnisift' has no attribute {name!r}")
    return getattr(import_module(f"omnisift.{_ROOM_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
