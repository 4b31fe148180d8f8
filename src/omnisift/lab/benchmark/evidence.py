"""Counts of kept evidence for one clip: the events and tokens that prove the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from omnisift.models import Compression
from omnisift.tokens import Modality
from omnisift.world import Question, Truth


@dataclass(frozen=True)
class KeptEvidence:
    """Counts of one clip under one selection. A proportion is the ratio of sums over clips."""

    video: int
    """Kept video tokens, of ``video_all``."""
    video_all: int
    audio: int
    """Kept audio tokens, of ``audio_all``."""
    audio_all: int
    shape_events: int
    """Shapes in question with at least one kept token, of ``shape_events_all``."""
    shape_events_all: int
    sound_events: int
    """Sounds in question, likewise. Several sounds of one kind that each prove a yes count as one event."""
    sound_events_all: int
    tied_tokens: int
    """Kept tokens of sounds that belong to a shape, of ``tied_tokens_all``."""
    tied_tokens_all: int
    distractor_tokens: int
    """Kept tokens of distractors, of ``distractor_tokens_all``."""
    distractor_tokens_all: int

    def as_dict(self) -> dict[str, int]:
        """Return plain data for JSON."""
        return asdict(self)


def masks(compression: Compression, row: int = 0) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the kept video tokens [V] bool and audio tokens [A] bool of one row, in the order of the clip's tokens."""
    keep, modality = compression.keep[row], compression.modality[row]
    return keep[modality == Modality.VIDEO].numpy(), keep[modality == Modality.AUDIO].numpy()


def count_kept(
    truth: Truth, questions: Sequence[Question], video: NDArray[np.bool_], audio: NDArray[np.bool_]
) -> KeptEvidence:
    """Count the evidence in a selection.

    Args:
        truth: Token labels of the clip.
        questions: Questions, whose events are counted.
        video: [V] bool: kept video tokens.
        audio: [A] bool: kept audio tokens. Those after the labelled ones are padding.
    """
    shapes = [truth.flat_video(i) for question in questions for i in question.shapes]
    sounds = [tokens for question in questions for tokens in _sound_events(truth, question)]
    owner = truth.audio_owner
    labelled = audio[: len(owner)]
    return KeptEvidence(
        video=int(video.sum()),
        video_all=len(video),
        audio=int(audio.sum()),
        audio_all=len(audio),
        shape_events=sum(bool(video[tokens].any()) for tokens in shapes),
        shape_events_all=len(shapes),
        sound_events=sum(bool(audio[tokens].any()) for tokens in sounds),
        sound_events_all=len(sounds),
        tied_tokens=int(labelled[owner > 0].sum()),
        tied_tokens_all=int((owner > 0).sum()),
        distractor_tokens=int(labelled[owner < 0].sum()),
        distractor_tokens_all=int((owner < 0).sum()),
    )


def _sound_events(truth: Truth, question: Question) -> list[NDArray[np.int64]]:
    tokens = [truth.sound_tokens[i] for i in question.sounds]
    return [np.concatenate(tokens)] if question.type == "heard" and tokens else tokens
