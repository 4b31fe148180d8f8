"""Training data as plain records: a clip and a conversation about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from omnisift.config import ReadOptions
from omnisift.errors import UsageError
from omnisift.utils.questions import check_text
from omnisift.utils.special_tokens import SpecialTokens

ROLES = ("system", "user", "assistant")
CLIP, SOUND = "<video>", "<audio>"
"""Placeholders of a clip in a user turn, and of one that is audio alone."""


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation."""

    role: str
    """``system``, ``user`` or ``assistant``."""
    text: str
    """Text without media tags."""
    learned: bool = True
    """Whether an assistant turn is learned; the others never are."""


@dataclass(frozen=True)
class Sample:
    """One row of a data set: a conversation about at most one clip."""

    id: str
    """The row's id, or its file and line; used in messages and counts."""
    media: Path | None
    """A file with video, audio or both; None for a row of text only."""
    turns: tuple[Turn, ...]
    clip_at: tuple[int, int] | None = None
    """(turn, character) before which the clip stands; None for the start of the first user turn."""
    sound_only: bool = False
    """Whether the row names its clip as audio, so that video in the same file is not shown to the model."""


@dataclass(frozen=True, kw_only=True)
class Reading(ReadOptions):
    """How clips are read for training."""

    max_seconds: float | None = None
    """Longer clips are skipped and counted; None takes all."""


def check_sample(sample: Sample, special: SpecialTokens, where: str = "") -> None:
    """Check the texts of a sample against the tokens of the model that learns it.

    Args:
        sample: the conversation.
        special: the special tokens of the model.
        where: file and line, for messages; the sample's id by default.

    Raises:
        UsageError: a text contains a special token of the model or is too long, or a turn is empty.
    """
    where = where or sample.id
    clip_turn = clip_place(sample)[0]
    for number, turn in enumerate(sample.turns):
        is_answer = turn.role == "assistant"
        check_text(turn.text, f"{where}: turn {number + 1} ({turn.role})", special, is_answer=is_answer)
        if turn.text.strip():
            continue
        if is_answer:
            raise UsageError(f"{where}: an empty answer; fill it in or remove the row")
        if turn.role == "user" and not (sample.media is not None and number == clip_turn):
            raise UsageError(f"{where}: turn {number + 1} (user) is empty; fill it in or remove the row")


def clip_place(sample: Sample) -> tuple[int, int]:
    """(turn, character) before which the clip of ``sample`` stands; turn -1 if there is no user turn."""
    if sample.clip_at is not None:
        return sample.clip_at
    return next((number for number, turn in enumerate(sample.turns) if turn.role == "user"), -1), 0
