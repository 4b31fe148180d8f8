"""Data files and folders: read whatever form they have, write the one that is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omnisift.errors import UsageError
from omnisift.training.data.rows import row_of, sample_of
from omnisift.training.data.samples import Sample, Turn
from omnisift.utils.atomic_io import write_atomic

METADATA = "metadata.jsonl"
"""The file that makes a folder of clips a data set: a line a clip."""
CAPTION_REQUEST = "Describe what is seen and heard in this clip."
"""What the user asks where a folder has captions and no question."""


def load_samples(path: Path) -> list[Sample]:
    """All rows of a JSON or JSONL file, or of a folder with `METADATA`.

    Raises:
        UsageError: nothing there, not JSON, no rows, or a row of no known form; with file and line.
    """
    path = path / METADATA if path.is_dir() else path
    if not path.is_file():
        raise UsageError(f"no data at {path}: give a .jsonl or .json file, or a folder with {METADATA}")
    rows = list(_rows(path))
    if not rows:
        raise UsageError(f"{path} has no rows")
    folder = path.parent
    samples = [sample for where, row in rows for sample in _samples(row, where, folder)]
    for sample in samples:
        _check_text(sample)
    return samples


def _check_text(sample: Sample) -> None:
    """JSON can name half a character (a lone surrogate), at which tokenizers fail in the middle of a run."""
    for turn in sample.turns:
        if not turn.text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in turn.text):
            raise UsageError(f"{sample.id}: half a character (a lone surrogate) in a text; correct the row")


def save_samples(samples: Sequence[Sample], path: Path, form: str) -> None:
    """Write ``samples``, one JSON object a line; the file appears only when it is whole."""
    lines = [json.dumps(row_of(sample, form, path.parent), ensure_ascii=False) for sample in samples]
    write_atomic(path, "".join(line + "\n" for line in lines))


def save_folder(samples: Sequence[Sample], folder: Path) -> None:
    """Write `METADATA` into ``folder``, which holds the clips; one line a clip, a caption or question for each sample.

    Raises `UsageError` for a sample that this form can't say: no clip, a clip elsewhere, or more than one answer.
    """
    rows: dict[str, dict[str, Any]] = {}
    for sample in samples:
        if sample.media is None or not sample.media.resolve().is_relative_to(folder.resolve()):
            raise UsageError(f"{sample.id}: its clip does not lie in {folder}; take another form, or put it there")
        said = [turn for turn in sample.turns if turn.role != "system"]
        if [turn.role for turn in said] != ["user", "assistant"]:
            raise UsageError(f"{sample.id}: {len(said)} turns; a folder holds one question and one answer a sample")
        name = sample.media.resolve().relative_to(folder.resolve()).as_posix()
        row = rows.setdefault(name, {"file_name": name})
        asked, answered = (turn.text for turn in said)
        if asked == CAPTION_REQUEST and "caption" not in row:
            row["caption"] = answered
        else:
            row.setdefault("qa", []).append({"question": asked, "answer": answered})
    write_atomic(folder / METADATA, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows.values()))


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, parsed object) of each row; a .json file holds a list."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start}); give a .jsonl or .json file") from None
    if text.lstrip().startswith("["):
        try:
            found = json.loads(text)
        except json.JSONDecodeError as error:
            raise UsageError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
        yield from ((f"{path.name}[{number}]", row) for number, row in enumerate(found))
        return
    # Not splitlines: JSON may hold U+2028 and its kin inside a text, and they end no line of JSONL.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield f"{path.name}:{number}", json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"{path}:{number}: not JSON ({error.msg})") from None


def _samples(row: Any, where: str, folder: Path) -> list[Sample]:
    """One sample; of a clip's line of `METADATA`, one for its caption and one for each question."""
    if not isinstance(row, dict) or "file_name" not in row:
        return [sample_of(row, where, folder)]
    clip, pairs = folder / str(row["file_name"]), []
    if isinstance(row.get("caption"), str):
        pairs.append((CAPTION_REQUEST, row["caption"]))
    asked = row.get("qa", [row] if "question" in row else [])
    for pair in asked if isinstance(asked, list) else [asked]:
        if not isinstance(pair, dict) or not all(isinstance(pair.get(key), str) for key in ("question", "answer")):
            raise UsageError(f"{where}: a question needs 'question' and 'answer', got {pair!r}")
        pairs.append((pair["question"], pair["answer"]))
    if not pairs:
        raise UsageError(f"{where}: no 'caption', 'question' or 'qa' for {row['file_name']}")
    return [
        Sample(f"{where}/{number}", clip, (Turn("user", question), Turn("assistant", answer)))
        for number, (question, answer) in enumerate(pairs)
    ]
