"""The items of a run, each of which becomes one row of the results: a clip, and for ``qa`` the question about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnisift.batch.sources import clips_of, read_text
from omnisift.errors import UsageError
from omnisift.utils.jsonl import parse_jsonl
from omnisift.utils.questions import check_question


@dataclass(frozen=True)
class Item:
    """One row to be produced."""

    id: str
    """Unique in a run: the clip's name; the second question about a clip has ``name#2``, and so on."""
    clip: str
    """The clip as the folder or list names it."""
    path: Path
    """Absolute path of the clip."""
    question: str | None = None
    """The question about this clip; None where the task defines it."""


def items_of(source: Path, question: str | None = None, questions: Path | None = None) -> list[Item]:
    """List the items of a clip, folder or list.

    Args:
        source: see `clips_of`.
        question: one question for every clip.
        questions: JSONL file with ``clip`` and ``question``, or with ``file_name`` and a list ``qa``, as
            `omnisift make-dataset` writes; a clip may have several questions.

    Returns:
        One item per clip, or one per question, in the order of the clips.

    Raises:
        UsageError: no clips, an empty question, a question about an unknown clip, or a clip without a question.
    """
    if question is not None:
        check_question(question)
    root, names = clips_of(source)
    # Not resolved: a symbolic link keeps the name that the user sees.
    paths = {name: Path(root.absolute(), name) for name in names}
    if questions is None:
        return [Item(name, name, paths[name], question) for name in names]
    by_clip = _read_questions(questions, names)
    items = [
        Item(name if number == 1 else f"{name}#{number}", name, paths[name], text)
        for name in names
        for number, text in enumerate(by_clip[name], start=1)
    ]
    if len({item.id for item in items}) < len(items):
        raise UsageError(f"{source}: a clip is named like the second question of another clip (name#2); rename it")
    return items


def _read_questions(path: Path, names: Sequence[str]) -> dict[str, list[str]]:
    questions: dict[str, list[str]] = {name: [] for name in names}
    for location, record in _records(path):
        clip = record.get("clip", record.get("file_name"))
        if not isinstance(clip, str) or clip not in questions:
            raise UsageError(f"{location}: 'clip' is {clip!r}, which is not among the clips of this run")
        questions[clip] += _questions_in(record, location)
    missing = [name for name in names if not questions[name]]
    if missing:
        raise UsageError(
            f"{path} has no question for {len(missing)} clips, first {missing[0]}; add it, or give a list of clips"
        )
    return questions


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, record in parse_jsonl(read_text(path, "a .jsonl file with questions"), path):
        if not isinstance(record, dict):
            raise UsageError(f"{path}:{number}: not an object with 'clip' and 'question'")
        yield f"{path}:{number}", record


def _questions_in(record: dict[str, Any], location: str) -> list[str]:
    pairs = record.get("qa", [record])
    texts = [pair.get("question") for pair in pairs if isinstance(pair, dict)] if isinstance(pairs, list) else []
    if not texts or len(texts) < len(pairs) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UsageError(f"{location}: needs a 'question' with text, or a list 'qa' of objects with one")
    questions = [str(text) for text in texts]
    for text in questions:
        check_question(text, location)
    return questions
