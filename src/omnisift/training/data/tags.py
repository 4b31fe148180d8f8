"""Media tags in the texts of a row: where the clip stands, and rows whose tags and clips don't match."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from omnisift.errors import UsageError
from omnisift.training.data.samples import Turn

_TAG = re.compile(r"<(video|audio|image)>")
_RUN = re.compile(r"<(?:video|audio|image)>(?:\s*<(?:video|audio|image)>)*\s*")
_OF_CLIP = {"video": ({"video"}, {"image"}, {"video", "audio"}), "audio": ({"audio"},)}
"""Kind of a clip -> the tags that stand for it: LLaVA writes ``<image>`` for a video, and LLaMA-Factory ``<audio>``
next to ``<video>`` for its track."""


def place_clip(turns: Sequence[Turn], kind: str | None, where: str) -> tuple[tuple[Turn, ...], tuple[int, int] | None]:
    """Take the tag of the clip out of the turns.

    Without a tag the clip stands before the first user turn, as in ms-swift.

    Args:
        turns: the conversation, with tags.
        kind: ``video`` or ``audio``, as the row calls its clip; None for a row without a clip.
        where: file and line, for messages.

    Returns:
        The turns, and `Sample.clip_at`.

    Raises:
        UsageError: the tags don't match the clip of the row, or stand in another turn than the user's.
    """
    runs = [(number, run) for number, turn in enumerate(turns) for run in _RUN.finditer(turn.text)]
    tags = [tag for _, run in runs for tag in _TAG.findall(run.group())]
    if kind is None and tags:
        raise UsageError(
            f"{where}: <{tags[0]}> but no clip; name the clip under 'videos', or write the word without brackets"
        )
    users = [number for number, turn in enumerate(turns) if turn.role == "user"]
    if kind is not None and not users:
        raise UsageError(f"{where}: a clip but no user turn to place it in; add one")
    if kind is None or not runs:
        return tuple(turns), None
    misplaced = next((turns[number].role for number, _ in runs if number not in users), None)
    if misplaced is not None:
        raise UsageError(f"{where}: a media tag in the {misplaced} turn; move it to the user turn of the clip")
    if len(runs) > 1 or len(set(tags)) < len(tags) or set(tags) not in _OF_CLIP[kind]:
        listed = "".join(f"<{tag}>" for tag in tags[:8])
        raise UsageError(f"{where}: the tags {listed} for one {kind} clip; keep one <{kind}> where the clip belongs")
    number, run = runs[0]
    if not any(turn.role == "assistant" and turn.learned for turn in turns[number:]):
        raise UsageError(f"{where}: no answer to learn follows the clip; move its tag to an earlier turn")
    text = turns[number].text
    begin, rest = text[: run.start()].rstrip(), text[run.end() :]
    gap = _gap(text[len(begin) : run.end()]) if begin and rest else ""
    placed = tuple(
        replace(turn, text=begin + gap + rest) if index == number else turn for index, turn in enumerate(turns)
    )
    return placed, None if (number, len(begin)) == (users[0], 0) else (number, len(begin))


def _gap(removed: str) -> str:
    """What replaces a tag and the blanks around it inside a text: a space or line break that keeps words apart."""
    return "\n" if "\n" in removed else " "
