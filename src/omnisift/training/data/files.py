"""Read and write training data: JSON and JSONL files in several forms, and folders with a metadata file."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from omnisift.errors import UsageError
from omnisift.training.data.repeated import check_repeated, marked_object
from omnisift.training.data.rows import check_characters, check_keys, clip_path, row_of, sample_of, unknown_keys
from omnisift.training.data.samples import Sample, Turn, check_sample
from omnisift.training.data.tags import place_clip
from omnisift.training.data.unanswered import with_answer
from omnisift.utils.jsonl import parse_json, write_jsonl
from omnisift.utils.parsing import check_path_name, is_text, read_text, shown
from omnisift.utils.special_tokens import SpecialTokens

logger = logging.getLogger(__name__)
METADATA = "metadata.jsonl"
"""The file that makes a folder of clips a data set, with one line per clip."""
CAPTION_REQUEST = "Describe what is seen and heard in this clip."
"""The user turn for captions of a folder, which have no question."""


@dataclass
class DataRows:
    """What `read_rows` found in data files."""

    samples: list[Sample] = field(default_factory=list)
    """The usable samples, in the order of the files."""
    refused: dict[str, str] = field(default_factory=dict)
    """File and line -> why the row is left out."""
    unknown_keys: Counter[str] = field(default_factory=Counter)
    """Key that is not understood -> number of rows that have it."""

    def to_dict(self) -> dict[str, Any]:
        """What was left out and what was not understood, JSON-ready."""
        return {"refused": self.refused, "unknown_keys": dict(self.unknown_keys)}

    def notes(self, most: int = 5) -> list[str]:
        """Lines that name the rows left out and the keys that are not understood.

        Args:
            most: number of rows and of keys that are named.
        """
        lines = [f"left out: {place}: {reason}" for place, reason in list(self.refused.items())[:most]]
        if len(self.refused) > most:
            lines.append(f"left out: {len(self.refused)} rows in all")
        keys = [f"{shown(key)} ({count} rows)" for key, count in self.unknown_keys.most_common(most)]
        if keys:
            more = len(self.unknown_keys) - len(keys)
            lines.append(f"keys that are not understood: {', '.join(keys)}" + (f" and {more} more" if more else ""))
        return lines


def read_rows(paths: Sequence[Path], special: SpecialTokens | None = None, *, answered: bool = True) -> DataRows:
    """Read data files; `omnisift train` and `omnisift data-check` take the same rows, because both call this.

    A row that can't be used is left out and named.

    Args:
        paths: JSON or JSONL files whose rows have any of the forms of `omnisift.training.data.rows`, or folders with
            `METADATA`.
        special: the special tokens of the model that learns the rows; None leaves the check of the texts out.
        answered: whether every row must have an answer; otherwise `with_answer` fills in what is missing.

    Raises:
        UsageError: a file is missing, not UTF-8 text or empty, or none of its rows can be used; with file and line.
    """
    rows, files = DataRows(), [_data_file(path) for path in paths]
    names = Counter(file.name for file in files)
    for file in files:
        _read_file(file, file.name if names[file.name] == 1 else str(file), special, rows, answered=answered)
    if not rows.samples:
        (place, reason), count = next(iter(rows.refused.items())), len(rows.refused)
        raise UsageError(f"{place}: {reason}" + (f" (none of the {count} rows can be used)" if count > 1 else ""))
    return rows


def load_samples(path: Path, special: SpecialTokens | None = None) -> list[Sample]:
    """The usable samples of one data file or folder; what is left out is named in the log.

    Args:
        path: as `read_rows` takes it.
        special: as `read_rows` takes it.

    Raises:
        UsageError: as `read_rows`.
    """
    rows = read_rows([path], special)
    for line in rows.notes():
        logger.warning("%s", line)
    return rows.samples


def _data_file(path: Path) -> Path:
    check_path_name(str(path), "the path of the data")
    file = path / METADATA if path.is_dir() else path
    if not file.is_file():
        hint = "" if path.suffix else f"; `omnisift make-dataset {path}` writes a small one to try"
        raise UsageError(f"no data at {path}: give a .jsonl or .json file, or a folder with {METADATA}{hint}")
    return file


def _read_file(path: Path, name: str, special: SpecialTokens | None, rows: DataRows, *, answered: bool) -> None:
    """Add the rows of one file, which messages call ``name``, to ``rows``."""
    is_empty, ids = True, {sample.id for sample in rows.samples}
    for where, parse in _rows(path, name):
        is_empty = False
        try:
            row = parse()
            check_repeated(row, where)
            if isinstance(row, dict):
                rows.unknown_keys.update(unknown_keys(row))
            samples = _samples(row if answered else with_answer(row), where, path.parent)
        except UsageError as error:
            rows.refused[where] = str(error).removeprefix(f"{where}: ")
            continue
        for sample in samples:
            # A line of a folder's file holds several samples, whose ids say which is meant.
            place = where if len(samples) == 1 else sample.id
            try:
                if special is not None:
                    check_sample(sample, special, place)
            except UsageError as error:
                rows.refused[place] = str(error).removeprefix(f"{place}: ")
                continue
            if sample.id in ids:  # ids count and name what is skipped, so that each is given once
                sample = replace(sample, id=f"{sample.id} ({where})")
            ids.add(sample.id)
            rows.samples.append(sample)
    if is_empty:
        raise UsageError(f"{path} has no rows")


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
        turns = sample.turns
        if [turn.role for turn in turns] != ["user", "assistant"] or sample.clip_at is not None or sample.sound_only:
            raise UsageError(
                f"{sample.id}: {len(turns)} turns, a clip inside the question, or one named as audio; a folder takes "
                "one question after the clip and one answer per sample, without a system turn"
            )
        name = sample.media.resolve().relative_to(folder.resolve()).as_posix()
        row = rows.setdefault(name, {"file_name": name})
        question, answer = (turn.text for turn in turns)
        if question == CAPTION_REQUEST and "caption" not in row:
            row["caption"] = answer
        else:
            row.setdefault("qa", []).append({"question": question, "answer": answer})
    write_jsonl(folder / METADATA, rows.values())


def _rows(path: Path, name: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(file and line, function that parses the row) of each row; a JSON file holds a list."""
    text = read_text(path, "the data", errors="surrogateescape")
    is_list = _is_list(text)
    if not is_list and not any(map(is_text, text.split("\n"))):
        text = read_text(path, "the data")  # raises for other bytes, of which no line is text
    if is_list:
        rows = parse_json(text, str(path), "correct the file", marked_object)
        yield from ((f"{name}[{number}]", partial(lambda row: row, row)) for number, row in enumerate(rows))
        return
    # Not splitlines: a JSON text may contain U+2028, at which splitlines would cut.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{name}:{number}"
            yield where, partial(_parse_line, line, where)


def _is_list(text: str) -> bool:
    """Whether a file is one JSON list, and not lines of which the first one is a list."""
    first, _, rest = text.lstrip().partition("\n")
    if not first.startswith("[") or not rest.strip():
        return first.startswith("[")
    try:
        parse_json(first, "")
    except UsageError:
        return True
    return False


def _parse_line(line: str, where: str) -> Any:
    try:
        line.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{where}: not UTF-8 text; correct or delete the line") from None
    return parse_json(line, where, hook=marked_object)


def _samples(row: Any, where: str, folder: Path) -> list[Sample]:
    """One sample; for a line of `METADATA`, one for the caption and one for each question."""
    if not isinstance(row, dict) or "file_name" not in row:
        return [sample_of(row, where, folder)]
    check_keys(row, where)
    clip, pairs, caption = clip_path(folder, row["file_name"], where), list[tuple[str, str]](), row.get("caption")
    if caption is not None:
        if not isinstance(caption, str):
            raise UsageError(f"{where}: 'caption' must be text, got {shown(caption)}")
        pairs.append((CAPTION_REQUEST, caption))
    listed = [] if row.get("qa") is None else row["qa"]
    asked = [row] if "question" in row or "answer" in row else []
    for pair in [*asked, *(listed if isinstance(listed, list) else [listed])]:
        if not isinstance(pair, dict) or not all(isinstance(pair.get(key), str) for key in ("question", "answer")):
            raise UsageError(f"{where}: a question needs 'question' and 'answer', got {shown(pair)}")
        pairs.append((pair["question"], pair["answer"]))
    if not pairs:
        raise UsageError(f"{where}: no 'caption', 'question' or 'qa' for {clip.name}")
    samples = []
    for number, (question, answer) in enumerate(pairs):
        for text in (question, answer):
            check_characters(text, where)
        turns, clip_at = place_clip((Turn("user", question), Turn("assistant", answer)), "video", where)
        samples.append(Sample(f"{where}/{number}", clip, turns, clip_at))
    return samples
