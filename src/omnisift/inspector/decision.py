"""Turn a compressor's `Selection` into columns over the clip's tokens, with the kind and rank of each score."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from omnisift.compressors import Compressor, Paired, VideoCompressor
from omnisift.compressors.omnisift import OmniSiftCompressor
from omnisift.compressors.stvp import StvpCompressor
from omnisift.inspector.anchor_attention import anchor_attention
from omnisift.inspector.layout import clip_indices, count_by_chunk
from omnisift.inspector.trace import KINDS, MODALITIES, ClipTokens, MethodSelection
from omnisift.tokens import Modality, Selection, TokenStream

_VIDEO, _AUDIO = int(Modality.VIDEO), int(Modality.AUDIO)


def method_selection(
    compressor: Compressor, stream: TokenStream, selection: Selection, tokens: ClipTokens
) -> MethodSelection:
    """The columns of a selection.

    Args:
        compressor: the method.
        stream: the token stream it was shown.
        selection: what it returned for ``stream``.
        tokens: the tokens of the clip in ``stream``.
    """
    index = clip_indices(stream)
    kept = selection.keep.cpu()[index].numpy()
    score = np.full(len(tokens), np.nan, np.float32)
    if selection.scores is not None:
        score = selection.scores.detach().float().cpu()[index].numpy()
    score = np.where(tokens.chunk >= 0, score, np.nan).astype(np.float32)
    second = stream.frame[index].numpy() == 1
    return MethodSelection(
        kept=kept,
        score=score,
        kind=_kinds(compressor, tokens, second, ~np.isnan(score)),
        rank=ranks(score, kept, _segments(tokens)),
        merged=_merged(stream, selection),
        video_kept=tuple(count_by_chunk(tokens, _VIDEO, kept)),
        audio_kept=tuple(count_by_chunk(tokens, _AUDIO, kept)),
        anchor_attention=anchor_attention(audio_compressor(compressor), stream, selection.keep),
    )


def video_compressor(compressor: Compressor) -> Compressor:
    """The method that selects the video tokens: the first of a pair."""
    return compressor.video if isinstance(compressor, Paired) else compressor


def audio_compressor(compressor: Compressor) -> Compressor:
    """The method that selects the audio tokens: the second of a pair."""
    return compressor.audio if isinstance(compressor, VideoCompressor) else compressor


def ranks(score: NDArray[np.float32], kept: NDArray[np.bool_], segment: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rank the scores of each segment.

    A method may rank by finer numbers than its scores (OmniSIFT by cosines and logits), so among equal scores the kept
    tokens come first, then the earlier ones.

    Args:
        score: [N], NaN for tokens without a score.
        kept: [N] bool.
        segment: [N] segment number; -1 excludes a token.

    Returns:
        [N]: 1 for the highest score of a segment, 0 without a rank.
    """
    rank = np.zeros(len(score), np.int64)
    scored = np.flatnonzero(~np.isnan(score) & (segment >= 0))
    order = scored[np.lexsort((scored, ~kept[scored], -score[scored], segment[scored]))]
    # Position in the sorted segment: position overall minus that of the segment's first token.
    first = np.searchsorted(segment[order], segment[order])
    rank[order] = np.arange(len(order)) - first + 1
    return rank


def _segments(tokens: ClipTokens) -> NDArray[np.int64]:
    """[N]: a number for every frame and for every chunk's audio; -1 outside chunks."""
    frames = int(tokens.frame.max()) + 1 if len(tokens) else 0
    segment = np.where(tokens.frame >= 0, tokens.frame, frames + tokens.chunk)
    return np.where(tokens.chunk >= 0, segment, -1)


def _merged(stream: TokenStream, selection: Selection) -> tuple[str, ...]:
    """Names of the modalities in which a kept embedding was replaced."""
    if selection.embeds is None:
        return ()
    changed = (selection.embeds != stream.embeds[selection.keep]).any(dim=-1).cpu()
    modality = stream.modality[selection.keep.cpu()]
    return tuple(MODALITIES[kind] for kind in (_VIDEO, _AUDIO) if bool(changed[modality == kind].any()))


def _kinds(
    compressor: Compressor, tokens: ClipTokens, second: NDArray[np.bool_], scored: NDArray[np.bool_]
) -> NDArray[np.int8]:
    """[N]: index into `KINDS`; ``second`` [N] bool marks the second frames of chunks."""
    video = np.where(second, *(KINDS.index(name) for name in _video_kinds(video_compressor(compressor))))
    audio = KINDS.index("selector" if isinstance(audio_compressor(compressor), OmniSiftCompressor) else "method")
    kind = np.where(tokens.modality == _VIDEO, video, audio)
    return np.where(scored, kind, 0).astype(np.int8)


def _video_kinds(method: Compressor) -> tuple[str, str]:
    """Kind of the scores in second frames, and in first frames."""
    if isinstance(method, OmniSiftCompressor):
        learned = method.selector is not None and method.selector.video_score is not None
        return ("learned", "learned") if learned else ("temporal", "spatial")
    if isinstance(method, StvpCompressor):
        return {"both": ("temporal", "spatial"), "spatial": ("spatial", "spatial")}.get(method.mode, ("method",) * 2)
    return "method", "method"
