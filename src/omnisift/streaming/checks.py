"""What a stream refuses: methods that need the whole clip, models that can't be read in parts, pieces that are none."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np

from omnisift.compressors import Compressor
from omnisift.compressors.resift import ReSiftCompressor
from omnisift.errors import CompressorError, TooBig, UnsupportedModel, UsageError
from omnisift.media.arrays import check_frames
from omnisift.media.audio import MAX_SAMPLE
from omnisift.media.lines import Line, check_lines
from omnisift.media.pieces import Piece
from omnisift.models import adapter_for
from omnisift.models.grid_adapter import GridAdapter
from omnisift.pipeline.clip_format import hears
from omnisift.pipeline.loading import Host
from omnisift.pipeline.preparation import unknown_spectrogram, unknown_video
from omnisift.streaming.assembler import check_time
from omnisift.streaming.cache import StreamCache
from omnisift.streaming.encoder import KeptUnit
from omnisift.streaming.policies import Policy
from omnisift.tokens import Modality
from omnisift.utils.questions import check_text
from omnisift.utils.special_tokens import SpecialTokens

MIN_FPS, MAX_FPS = 0.01, 30.0
"""Fewest and most images per second of a stream."""


def stream_method(compressor: Compressor | None, policy: Policy) -> Compressor | None:
    """The method of a stream: the default one is made causal, and does not merge where the policy drops by rank.

    Args:
        compressor: the method; None keeps every token.
        policy: which tokens stay.

    Raises:
        CompressorError: the method looks at the whole clip.
        UsageError: the budget is a number of tokens, or the policy needs a method.
    """
    if not isinstance(policy, Policy):
        raise UsageError(f"keep must be a policy such as omnisift.SlidingWindow(60), got {policy!r:.80}")
    if compressor is None:
        if policy.needs_scores:
            raise UsageError(f"{type(policy).__name__} compares scores, but every token is kept: choose a method")
        return None
    if compressor.budget.tokens is not None:
        raise UsageError("a stream has no end over which tokens could be divided: give retain instead of tokens")
    if type(compressor) is ReSiftCompressor and compressor.reason:
        merge = compressor.merge and not policy.drops_by_rank
        causal = ReSiftCompressor(
            compressor.budget, merge=merge, causal=True, guide=compressor.guide, decay=compressor.decay
        ).eval()
        causal.reason = f"{compressor.reason}: a stream"
        return causal
    if compressor.reach is None:
        raise CompressorError(
            f"{compressor.label} looks at the whole clip, of which a stream has the past alone: use "
            "resift:causal=true, or another method that decides on parts (docs/streaming.md)"
        )
    return compressor


def check_stream(
    host: Host,
    compressor: Compressor | None,
    fps: float,
    *,
    audio: bool,
    peak: float | None,
) -> None:
    """Check a model, a method and the arguments of a stream.

    Raises:
        CompressorError: the method reads the attention of the encoders.
        UnsupportedModel: the model can't be read in parts.
        UsageError: an argument is out of range.
    """
    if isinstance(fps, bool) or not isinstance(fps, Real) or not MIN_FPS <= fps <= MAX_FPS:
        raise UsageError(f"fps of a stream must be from {MIN_FPS:g} to {MAX_FPS:g}, got {fps!r:.80}")
    if peak is not None and (isinstance(peak, bool) or not isinstance(peak, Real) or not math.isfinite(peak)):
        raise UsageError(f"peak must be a number, got {peak!r:.80}")
    if not isinstance(audio, bool):
        raise UsageError(f"audio must be true, false or None, got {audio!r:.80}")
    if audio and not hears(host.processor):
        raise UsageError("this model takes no audio: leave audio out, or pass audio=False")
    if compressor is not None and compressor.needs:
        raise CompressorError(f"{compressor.label} reads the attention of the encoders, which a stream does not supply")
    if reason := why_no_stream(host):
        raise UnsupportedModel(f"{type(host.thinker).__name__} can't read a stream: {reason}")
    StreamCache(adapter_for(host.thinker).parts.language_model, keeps_read=False)  # or it says why not


def why_no_stream(host: Host) -> str | None:
    """Why a model can't read a prompt part by part; None if it can."""
    processor, adapter = host.processor, adapter_for(host.thinker)
    if not isinstance(adapter, GridAdapter) or not adapter.is_causal:
        return "its video has no grid of frames, or its tokens see later ones"
    if reason := unknown_video(processor):
        return reason
    generation = host.thinker.generation_config
    if generation.use_cache is False:
        return "its generation_config has use_cache=False"
    cache = generation.cache_implementation
    if cache not in (None, "dynamic"):
        return f"cached keys are moved, but its generation_config has cache_implementation={cache!r}"
    extractor = getattr(processor, "feature_extractor", None)
    if extractor is None:
        return None
    return "its audio encoder reads the whole clip" if adapter.audio_window is None else unknown_spectrogram(extractor)


def clean_line(line: Line, processor: Any) -> Line | None:
    """A line as `omnisift.media.lines.check_lines` cleans it; None if nothing is left of its text.

    Raises:
        UsageError: its times are wrong, or it contains a special token of the model.
        TooBig: it is too long.
    """
    for moment in (line.start, line.end):
        check_time(moment)
    lines, _ = check_lines([line], math.inf)
    for cleaned in lines:
        check_text(cleaned.text, "the line", SpecialTokens.of(processor.tokenizer))
    return next(iter(lines), None)


def check_piece(piece: Any) -> None:
    """Raise `UsageError` for a piece that is none."""
    if not isinstance(piece, Piece):
        raise UsageError(f"feed takes an omnisift.Piece or an omnisift.Line, got {type(piece).__name__}")
    if piece.image is None and piece.samples is None:
        raise UsageError("a piece has an image or samples, got neither")
    check_time(piece.time)
    if piece.image is not None:
        if not isinstance(piece.image, np.ndarray) or piece.image.ndim != 3:
            shape = list(getattr(piece.image, "shape", []))
            raise UsageError(f"the image of a piece must be uint8 [H, W, 3], got {type(piece.image).__name__} {shape}")
        check_frames(piece.image[None], 1.0)
    if piece.samples is None:
        return
    samples = piece.samples
    if not isinstance(samples, np.ndarray) or samples.ndim != 1 or samples.dtype.kind != "f":
        kind = getattr(samples, "dtype", type(samples).__name__)
        raise UsageError(
            f"the samples of a piece must be floats [N] of one channel at 16 kHz, within [-1, 1], got {kind} "
            f"{list(getattr(samples, 'shape', []))}"
        )
    if len(samples) and not float(np.abs(samples).max()) <= MAX_SAMPLE:
        raise UsageError("the samples of a piece are NaN, infinite or far above 1: scale them to [-1, 1]")


def check_kept(kept: KeptUnit, compressor: Compressor, policy: Policy) -> None:
    """Raise `CompressorError` if a policy can't work with what a method returns."""
    name = type(policy).__name__
    rated = kept.score[kept.modality != Modality.SUBTITLE]  # lines have scores of their own
    if policy.needs_scores and len(rated) and bool(rated.isnan().all()):
        raise CompressorError(f"{compressor.label} gives no scores, which {name} compares: use SlidingWindow")
    if policy.drops_by_rank and kept.merged:
        raise CompressorError(
            f"{compressor.label} merges tokens into others, which {name} may drop later: use "
            "resift:causal=true,merge=false"
        )


def check_context(limit: int | None, tokens: int, positions: int) -> None:
    """Raise `TooBig` if the model's context of ``limit`` does not hold a stream; None is no limit."""
    if limit is not None and max(tokens, positions) > limit:
        raise TooBig(
            f"the stream has {tokens} tokens and {positions} positions, but the context is {limit}: let the policy "
            "hold less (SlidingWindow, MemoryBank), feed fewer lines, or raise max_length"
        )
