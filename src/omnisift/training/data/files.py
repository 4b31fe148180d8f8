"""Read and write training data: JSON and JSONL files in several forms, and folders with a metadata file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omnisift.errors import UsageError
from omnisift.training.data.rows import check_characters, clip_path, row_of, sample_of
from omnisift.training.data.samples import Sample, Turn
from omnisift.utils.jsonl import parse_json, parse_jsonl, write_jsonl
from omnisift.utils.parsing import check_path_name, read_text, shown

METADATA = "metadata.jsonl"
"""The file that makes a folder of clips a data set, with one line per clip."""
CAPTION_REQUEST = "Describe what is seen and heard in this clip."
"""The user turn for captions of a folder, which have no question."""


def load_samples(path: Path) -> list[Sample]:
    """Read all samples of a data set.

    Args:
        path: a JSON or JSONL file whose rows have any of the forms of `omnisift.training.data.rows`, or a folder with
            `METADATA`.

    Returns:
        The samples in the order of the file.

    Raises:
        UsageError: the file is missing, not JSON or empty, or a row has no known form; with file and line.
    """
    check_path_name(str(path), "the path of the data")
    file = path / METADATA if path.is_dir() else path
    if not file.is_file():
        hint = "" if path.suffix else f"; `omnisift make-dataset {path}` writes a small one to try"
        raise UsageError(f"no data at {path}: give a .jsonl or .json file, or a folder with {METADATA}{hint}")
    path = file
    rows = list(_rows(path))
    if not rows:
        raise UsageError(f"{path} has no rows")
    folder = path.parent
    return [sample for where, row in rows for sample in _samples(row, where, folder)]


def save_samples(samples: Sequence[Sample], path: Path, form: str) -> None:
    """Write ``samples`` as JSON lines; the file appears only when it is complete.

    Args:
        samples: what to write.
        path: the file; paths of clips inside its folder become relative.
        form: ``messages``, ``sharegpt`` or ``llava``.

    Raises:
        UsageError: the form is unknown.
    """
    write_jsonl(path, [row_of(sample, form, path.parent) for sample in samples])


def save_folder(samples: Sequence[Sample], folder: Path) -> None:
    """Write `METADATA` into the folder of the clips: one line per clip with its captions and questions.

    Raises:
        UsageError: a sample has no clip, a clip outside ``folder``, or more than one question and answer.
    """
    rows: dict[str, dict[str, Any]] = {}
    for sample in samples:
        if sample.media is None or not sample.media.resolve().is_relative_to(folder.resolve()):
            raise UsageError(f"{sample.id}: its clip is not in {folder}; choose another form, or move the clip there")
        turns = [turn for turn in sample.turns if turn.role != "system"]
        if [turn.role for turn in turns] != ["user", "assistant"]:
            raise UsageError(f"{sample.id}: {len(turns)} turns; a folder takes one question and one answer per sample")
        name = sample.media.resolve().relative_to(folder.resolve()).as_posix()
        row = rows.setdefault(name, {"file_name": name})
        question, answer = (turn.text for turn in turns)
        if question == CAPTION_REQUEST and "caption" not in row:
            row["caption"] = answer
        else:
            row.setdefault("qa", []).append({"question": question, "answer": answer})
    write_jsonl(folder / METADATA, rows.values())


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(file and line, parsed object) of each row; a JSON file holds a list."""
    text = read_text(path, "the data")
    if text.lstrip().startswith("["):
        rows = parse_json(text, str(path), "correct the file")
        yield from ((f"{path.name}[{number}]", row) for number, row in enumerate(rows))
        return
    yield from ((f"{path.name}:{number}", row) for number, row in parse_jsonl(text, path))


def _samples(row: Any, where: str, folder: Path) -> list[Sample]:
    """One sample; for a line of `METADATA`, one for the caption and one for each question."""
    if not isinstance(row, dict) or "file_name" not in row:
        return [sample_of(row, where, folder)]
    clip, pairs = clip_path(folder, row["file_name"], where), []
    if isinstance(row.get("caption"), str):
        pairs.append((CAPTION_REQUEST, row["caption"]))
    listed = row.get("qa", [row] if "question" in row else [])
    for pair in listed if isinstance(listed, list) else [listed]:
        if not isinstance(pair, dict) or not all(isinstance(pair.get(key), str) for key in ("question", "answer")):
            raise UsageError(f"{where}: a question needs 'question' and 'answer', got {shown(pair)}")
        pairs.append((pair["question"], pair["answer"]))
    if not pairs:
        raise UsageError(f"{where}: no 'caption', 'question' or 'qa' for {clip.name}")
    for text in (text for pair in pairs for text in pair):
        check_characters(text, where)
    return [
        Sample(f"{where}/{number}", clip, (Turn("user", question), Turn("assistant", answer)))
        for number, (question, answer) in enumerate(pairs)
    ]
