"""What a method decided, as columns: its `Selection` as it is, with the kind of each score and its rank."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from omnisift.compressors import Compressor
from omnisift.compressors.omnisift import OmniSiftCompressor
from omnisift.compressors.paired import Paired, VideoCompressor
from omnisift.compressors.stvp import StvpCompressor
from omnisift.inspector.anchor_attention import looks_of
from omnisift.inspector.layout import count_by_chunk, media_places
from omnisift.inspector.trace import KINDS, MODALITIES, Selected, Tokens
from omnisift.tokens import Modality, Selection, TokenStream

_VIDEO, _AUDIO = int(Modality.VIDEO), int(Modality.AUDIO)


def selected_by(compressor: Compressor, stream: TokenStream, selection: Selection, tokens: Tokens) -> Selected:
    """Columns of ``selection``, which ``compressor`` made of ``stream``; ``tokens`` are those of the stream's clip."""
    places = media_places(stream)
    kept = selection.keep.cpu()[places].numpy()
    score = np.full(len(tokens), np.nan, np.float32)
    if selection.scores is not None:
        score = selection.scores.detach().float().cpu()[places].numpy()
    score = np.where(tokens.chunk >= 0, score, np.nan).astype(np.float32)
    second = stream.frame[places].numpy() == 1
    return Selected(
        kept=kept,
        score=score,
        kind=_kinds(compressor, tokens, second, ~np.isnan(score)),
        rank=ranks(score, kept, _segments(tokens)),
        merged=_merged(stream, selection),
        video_kept=tuple(count_by_chunk(tokens, _VIDEO, kept)),
        audio_kept=tuple(count_by_chunk(tokens, _AUDIO, kept)),
        looks=looks_of(sound_half(compressor), stream, selection.keep),
    )


def picture_half(compressor: Compressor) -> Compressor:
    """What decided on the picture."""
    return compressor.video if isinstance(compressor, Paired) else compressor


def sound_half(compressor: Compressor) -> Compressor:
    """What decided on the sound."""
    return compressor.audio if isinstance(compressor, VideoCompressor) else compressor


def ranks(score: NDArray[np.float32], kept: NDArray[np.bool_], segment: NDArray[np.int64]) -> NDArray[np.int64]:
    """[N]: 1 for the highest score of each ``segment``; of equal ones the kept come first, then the earlier; 0 for NaN.

    A method may rank by finer numbers than its scores (OmniSIFT by cosines and logits), so ties go by its choice.
    """
    rank = np.zeros(len(score), np.int64)
    scored = np.flatnonzero(~np.isnan(score) & (segment >= 0))
    order = scored[np.lexsort((scored, ~kept[scored], -score[scored], segment[scored]))]
    first = np.searchsorted(segment[order], segment[order])
    rank[order] = np.arange(len(order)) - first + 1
    return rank


def _segments(tokens: Tokens) -> NDArray[np.int64]:
    """[N]: a number for every frame and every chunk's sound; -1 outside chunks."""
    frames = int(tokens.frame.max()) + 1 if len(tokens) else 0
    segment = np.where(tokens.frame >= 0, tokens.frame, frames + tokens.chunk)
    return np.where(tokens.chunk >= 0, segment, -1)


def _merged(stream: TokenStream, selection: Selection) -> tuple[str, ...]:
    """Names of the modalities of which a kept embedding was replaced by another one."""
    if selection.embeds is None:
        return ()
    changed = (selection.embeds != stream.embeds[selection.keep]).any(dim=-1).cpu()
    modality = stream.modality[selection.keep.cpu()]
    return tuple(MODALITIES[kind] for kind in (_VIDEO, _AUDIO) if bool(changed[modality == kind].any()))


def _kinds(
    compressor: Compressor, tokens: Tokens, second: NDArray[np.bool_], scored: NDArray[np.bool_]
) -> NDArray[np.int8]:
    """[N]: index into `KINDS`; ``second`` [N] marks the second frames of chunks."""
    picture = np.where(second, *(KINDS.index(name) for name in _picture_kinds(picture_half(compressor))))
    sound = KINDS.index("selector" if isinstance(sound_half(compressor), OmniSiftCompressor) else "method")
    kind = np.where(tokens.modality == _VIDEO, picture, sound)
    return np.where(scored, kind, 0).astype(np.int8)


def _picture_kinds(method: Compressor) -> tuple[str, str]:
    """What its scores are in second frames, and in first ones."""
    if isinstance(method, OmniSiftCompressor):
        learned = method.selector is not None and method.selector.picture is not None
        return ("learned", "learned") if learned else ("temporal", "spatial")
    if isinstance(method, StvpCompressor):
        return {"both": ("temporal", "spatial"), "spatial": ("spatial", "spatial")}.get(method.mode, ("method",) * 2)
    return "method", "method"
