"""OmniSIFT: run audio-video language models at a quarter of their tokens.

Importing this package loads nothing else: each public name is imported from its module on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omnisift import batch, compressors, errors, inspector, media, world
    from omnisift.budget import Budget, from_rho
    from omnisift.calibration import Scales, calibrate, fake_quantized
    from omnisift.chunks import build_stream
    from omnisift.compressors import (
        Compressor,
        Scope,
        ScoredCompressor,
        ScoredVideoCompressor,
        SubtitleTrack,
        Track,
        VideoCompressor,
        make_compressor,
        register,
    )
    from omnisift.config import CompressionConfig, EncodingOptions, ReadOptions
    from omnisift.errors import (
        BudgetError,
        CheckpointError,
        CompressorError,
        MediaError,
        ModelError,
        OmniSiftError,
        UsageError,
    )
    from omnisift.inspector import inspect_clip
    from omnisift.media import Line, LiveSource, Media, Piece, StreamWarning, open_stream, read
    from omnisift.models import (
        Adapter,
        Attachment,
        Compression,
        GridAdapter,
        Layout,
        Parts,
        Prompt,
        PromptLines,
        Side,
        adapter_for,
        attach,
    )
    from omnisift.pipeline import Answer, EncodedClip, Pipeline, Report, inputs, load
    from omnisift.profiling.advice import Advice, advise
    from omnisift.streaming import (
        KeepAll,
        LiveReader,
        MemoryBank,
        NestedBudgets,
        PeakMeter,
        Policy,
        SlidingWindow,
        StreamAnswer,
        StreamReport,
        StreamSession,
    )
    from omnisift.tokens import Modality, Selection, TokenStream
    from omnisift.training.distill import (
        DistillSettings,
        distill,
        find_clips,
        load_questions,
        observe_clips,
        save_selector,
    )
    from omnisift.training.finetune import TrainRecipe, fine_tune, load_train_recipe
    from omnisift.utils.assets import nano_path
    from omnisift.vgas import VGAS, VGASConfig

__version__ = "0.1.0"

_MODULE_OF = {
    "Adapter": "models",
    "Advice": "profiling.advice",
    "Answer": "pipeline",
    "Attachment": "models",
    "Budget": "budget",
    "BudgetError": "errors",
    "CheckpointError": "errors",
    "Compression": "models",
    "CompressionConfig": "config",
    "Compressor": "compressors",
    "CompressorError": "errors",
    "DistillSettings": "training.distill",
    "EncodedClip": "pipeline",
    "EncodingOptions": "config",
    "GridAdapter": "models",
    "KeepAll": "streaming",
    "Layout": "models",
    "Line": "media",
    "LiveReader": "streaming",
    "LiveSource": "media",
    "Media": "media",
    "MediaError": "errors",
    "MemoryBank": "streaming",
    "Modality": "tokens",
    "ModelError": "errors",
    "NestedBudgets": "streaming",
    "OmniSiftError": "errors",
    "Parts": "models",
    "PeakMeter": "streaming",
    "Piece": "media",
    "Pipeline": "pipeline",
    "Policy": "streaming",
    "Prompt": "models",
    "PromptLines": "models",
    "ReadOptions": "config",
    "Report": "pipeline",
    "Scales": "calibration",
    "Scope": "compressors",
    "ScoredCompressor": "compressors",
    "ScoredVideoCompressor": "compressors",
    "Selection": "tokens",
    "Side": "models",
    "SlidingWindow": "streaming",
    "StreamAnswer": "streaming",
    "StreamReport": "streaming",
    "StreamSession": "streaming",
    "StreamWarning": "media",
    "SubtitleTrack": "compressors",
    "TokenStream": "tokens",
    "Track": "compressors",
    "TrainRecipe": "training.finetune",
    "UsageError": "errors",
    "VGAS": "vgas",
    "VGASConfig": "vgas",
    "VideoCompressor": "compressors",
    "adapter_for": "models",
    "advise": "profiling.advice",
    "attach": "models",
    "build_stream": "chunks",
    "calibrate": "calibration",
    "distill": "training.distill",
    "fake_quantized": "calibration",
    "find_clips": "training.distill",
    "fine_tune": "training.finetune",
    "from_rho": "budget",
    "inputs": "pipeline",
    "inspect_clip": "inspector",
    "load": "pipeline",
    "load_questions": "training.distill",
    "load_train_recipe": "training.finetune",
    "make_compressor": "compressors",
    "nano_path": "utils.assets",
    "observe_clips": "training.distill",
    "open_stream": "media",
    "read": "media",
    "register": "compressors",
    "save_selector": "training.distill",
}
_MODULES = ("batch", "compressors", "errors", "inspector", "media", "world")
"""Modules that can be used as ``omnisift.NAME`` without an import of their own."""

__all__ = [
    "VGAS",
    "Adapter",
    "Advice",
    "Answer",
    "Attachment",
    "Budget",
    "BudgetError",
    "CheckpointError",
    "Compression",
    "CompressionConfig",
    "Compressor",
    "CompressorError",
    "DistillSettings",
    "EncodedClip",
    "EncodingOptions",
    "GridAdapter",
    "KeepAll",
    "Layout",
    "Line",
    "LiveReader",
    "LiveSource",
    "Media",
    "MediaError",
    "MemoryBank",
    "Modality",
    "ModelError",
    "NestedBudgets",
    "OmniSiftError",
    "Parts",
    "PeakMeter",
    "Piece",
    "Pipeline",
    "Policy",
    "Prompt",
    "PromptLines",
    "ReadOptions",
    "Report",
    "Scales",
    "Scope",
    "ScoredCompressor",
    "ScoredVideoCompressor",
    "Selection",
    "Side",
    "SlidingWindow",
    "StreamAnswer",
    "StreamReport",
    "StreamSession",
    "StreamWarning",
    "SubtitleTrack",
    "TokenStream",
    "Track",
    "TrainRecipe",
    "UsageError",
    "VGASConfig",
    "VideoCompressor",
    "adapter_for",
    "advise",
    "attach",
    "batch",
    "build_stream",
    "calibrate",
    "compressors",
    "distill",
    "errors",
    "fake_quantized",
    "find_clips",
    "fine_tune",
    "from_rho",
    "inputs",
    "inspect_clip",
    "inspector",
    "load",
    "load_questions",
    "load_train_recipe",
    "make_compressor",
    "media",
    "nano_path",
    "observe_clips",
    "open_stream",
    "read",
    "register",
    "save_selector",
    "world",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name in _MODULES:
        return import_module(f"omnisift.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'omnisift' has no attribute {name!r}")
    return getattr(import_module(f"omnisift.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
