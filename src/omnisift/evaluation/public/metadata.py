"""Conversion of the metadata files of five benchmarks to rows.

Each benchmark is read in the format of its authors and in that of the paper's repository (``evaluation/*/data.jsonl``
of dingyue772/OmniSIFT). Rows are not bundled: the licences do not permit it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omnisift.errors import UsageError
from omnisift.evaluation.public.rows import LETTERS, Row
from omnisift.utils.jsonl import parse_jsonl
from omnisift.utils.suggest import meant

Item = Mapping[str, Any]
_OPTION = re.compile(r"^\(?[A-J][.):\s]")


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: its reader, size and metric."""

    title: str
    read: Callable[[Item], Iterator[dict[str, Any]]]
    """Item of the file -> fields of its rows, without ``id`` and ``benchmark``."""
    rows: int
    """Number of rows of the complete benchmark."""
    metric: str = "accuracy"


def convert(name: str, metadata: Path, video_root: Path) -> list[Row]:
    """Convert a metadata file to rows.

    Args:
        name: Name of the benchmark, a key of `BENCHMARKS`.
        metadata: The file.
        video_root: Folder of the videos.

    Raises:
        UsageError: The benchmark is unknown, the file cannot be read, or an item lacks a field.
    """
    if name not in BENCHMARKS:
        raise UsageError(f"no benchmark named {name!r}; known: {', '.join(BENCHMARKS)}{meant(name, BENCHMARKS)}")
    rows: list[Row] = []
    for number, item in enumerate(load_items(metadata)):
        try:
            item_rows = list(BENCHMARKS[name].read(item))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__} {error}"
            raise UsageError(
                f"{metadata}: item {number} is not an item of {name} ({reason}); give the metadata file of {name}"
            ) from error
        rows += [_row(name, len(rows) + index, fields, video_root) for index, fields in enumerate(item_rows)]
    if not rows:
        raise UsageError(f"{metadata} has no questions; give the metadata file of {name}")
    return rows


def load_items(path: Path) -> list[Item]:
    """Read the items of a ``.json``, ``.jsonl`` or ``.parquet`` file; a JSON object holds items by name.

    Raises:
        UsageError: The file does not exist or has another format.
    """
    if not path.is_file():
        raise UsageError(f"no file {path}; give the metadata file of the benchmark")
    if path.suffix == ".parquet":
        return _parquet(path)
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    try:
        data = json.loads(text)
    except ValueError:
        return _lines(path, text)
    if isinstance(data, dict) and all(isinstance(value, dict) for value in data.values()):
        return [{"name": name, **value} for name, value in data.items()]
    items = data if isinstance(data, list) else [data]
    if not all(isinstance(item, dict) for item in items):
        raise UsageError(f"{path} does not hold JSON objects; give the metadata file of the benchmark")
    return items


def _lines(path: Path, text: str) -> list[Item]:
    items: list[Item] = []
    for number, item in parse_jsonl(text, path):
        if not isinstance(item, dict):
            raise UsageError(f"{path}:{number}: not a JSON object; give a .json or .jsonl file")
        items.append(item)
    return items


def _parquet(path: Path) -> list[Item]:
    if find_spec("pyarrow") is None:
        raise UsageError(f"reading {path} needs pyarrow, which is not installed; run pip install pyarrow")
    import pyarrow.parquet as parquet

    try:
        return list(parquet.read_table(path).to_pylist())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not a parquet file ({type(error).__name__}); download it again") from error


def _row(name: str, number: int, fields: dict[str, Any], root: Path) -> Row:
    options = tuple(str(option) for option in fields.pop("options", ()))
    answer = str(fields.pop("answer")).strip()
    if options and answer not in LETTERS[: len(options)]:
        raise UsageError(f"{name}, row {number}: the answer {answer!r} is not one of its {len(options)} options")
    digest = hashlib.sha256(f"{fields['video']}\n{fields['question']}".encode(errors="surrogatepass")).hexdigest()[:8]
    path = root / fields.pop("file")
    return Row(f"{number:04d}-{digest}", name, path=str(path), options=options, answer=answer, **fields)


# --- one reader per benchmark ----------------------------------------------------------------------------------------


def _dailyomni(item: Item) -> Iterator[dict[str, Any]]:
    video = str(item["video_id"])
    yield {
        "video": video,
        "file": f"{video}/{video}_video.mp4",
        "question": str(item["Question"]),
        "options": list(item["Choice"]),
        "answer": item["Answer"],
        "groups": {"type": str(item["Type"]), "duration": str(item["video_duration"])},
    }


def _worldsense(item: Item) -> Iterator[dict[str, Any]]:
    if "video_path" in item:  # the paper's file: question and options are one text
        question, options = split_options(str(item["question"]))
        yield {
            "video": Path(str(item["video_path"])).stem,
            "file": str(item["video_path"]),
            "question": question,
            "options": options,
            "answer": item["answer"],
            "groups": {"domain": str(item["domain"])},
        }
        return
    for name in sorted(key for key in item if key.startswith("task")):  # the authors' file: one object per video
        task = item[name]
        yield {
            "video": str(item["name"]),
            "file": f"videos/{item['name']}.mp4",
            "question": str(task["question"]),
            "options": list(task["candidates"]),
            "answer": task["answer"],
            "groups": {"domain": str(item["domain"]), "task": str(task["task_type"])},
        }


def _videomme(item: Item) -> Iterator[dict[str, Any]]:
    groups = {name: str(item[name]) for name in ("duration", "domain", "task_type")}
    if "options" in item:  # the authors' file
        video, file = str(item["videoID"]), f"{item['videoID']}.mp4"
        question, options = str(item["question"]), list(item["options"])
    else:
        video, file = str(item["video_id"]), str(item["video_path"])
        lines = str(item["prompt"]).splitlines()
        question, options = split_options("\n".join(lines[1:-1]))  # between the instruction and "The best answer is:"
    yield {
        "video": video,
        "file": file,
        "question": question,
        "options": options,
        "answer": item["answer"],
        "groups": groups,
    }


def _omnivideobench(item: Item) -> Iterator[dict[str, Any]]:
    if "conversations" in item:  # the paper's file
        question, options = split_options(_turn(item, "human"))
        yield {
            "video": Path(str(item["videos"])).stem,
            "file": str(item["videos"]),
            "question": question,
            "options": options,
            "answer": _turn(item, "gpt"),
            "groups": {"type": str(item["question_type"]), "audio": str(item["audio_type"])},
        }
        return
    for question in item["questions"]:  # the authors' file: one object per video
        yield {
            "video": str(item["video"]),
            "file": f"videos/{item['video']}.mp4",
            "question": str(question["question"]),
            "options": list(question["options"]),
            "answer": question["correct_option"],
            "groups": {"type": str(question["question_type"]), "audio": str(question["audio_type"])},
        }


def _video_salmonn2(item: Item) -> Iterator[dict[str, Any]]:
    yield {
        "video": Path(str(item["video"])).stem,
        "file": str(item["video"]),
        "question": _turn(item, "human").replace("<image>", "").replace("<video>", "").strip(),
        "answer": _turn(item, "gpt"),
        "events": tuple(str(event) for event in item["events"]),
    }


def _turn(item: Item, speaker: str) -> str:
    return next(str(turn["value"]) for turn in item["conversations"] if turn["from"] == speaker)


def split_options(text: str) -> tuple[str, list[str]]:
    """Split a text into the question and its options: the last run of lines that begin with a letter.

    Some rows of OmniVideoBench repeat a letter or write ``A The girl`` without a dot, so letters are not checked. The
    first line always belongs to the question, even if it begins with ``A man walks``.

    Raises:
        ValueError: The text has no options.
    """
    lines = text.strip("\n").splitlines()
    first = len(lines)
    while first > 1 and _OPTION.match(lines[first - 1].strip()):
        first -= 1
    if first == len(lines):
        raise ValueError("it has no options after the question")
    return "\n".join(lines[:first]), lines[first:]


BENCHMARKS: dict[str, Benchmark] = {
    "worldsense": Benchmark("WorldSense", _worldsense, 3172),
    "dailyomni": Benchmark("DailyOmni", _dailyomni, 1197),
    "omnivideobench": Benchmark("OmniVideoBench", _omnivideobench, 1000),
    "videomme": Benchmark("Video-MME", _videomme, 2700),
    "video_salmonn2": Benchmark("video-SALMONN-2", _video_salmonn2, 483, metric="events"),
}
