"""Questions of benchmarks in one format, and their prompts: the paper's wording, or that of each benchmark.

Results are comparable only with the same wording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omnisift.errors import UsageError
from omnisift.utils.jsonl import parse_jsonl, write_jsonl
from omnisift.utils.suggest import meant

LETTERS = "ABCDEFGHIJ"
"""Letters of options."""


@dataclass(frozen=True)
class Row:
    """One question on one video, or one video to describe."""

    id: str
    """Index in the metadata file and a digest of the question, so that rows of different files do not pair."""
    benchmark: str
    video: str
    """Name of the video in the metadata. Questions on one video are one cluster."""
    path: str
    """Path of the video."""
    question: str
    """Without options; for captions the instruction."""
    options: tuple[str, ...] = ()
    """As in the metadata, with the letter: ``A. A cat.``; empty for captions."""
    answer: str = ""
    """The correct letter; for captions the reference."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Groups for partial scores, such as ``{"domain": "Music"}``. Papers print the first."""
    events: tuple[str, ...] = ()
    """For captions: the events of the video."""

    @property
    def is_choice(self) -> bool:
        """Whether the answer is a letter."""
        return bool(self.options)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, with the same keys for every row of a benchmark."""
        return asdict(self) | {"options": list(self.options), "events": list(self.events)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Row:
        """Read what `to_dict` returns. Empty groups, which a table library may add, are dropped."""
        groups = {name: str(value) for name, value in (data.get("groups") or {}).items() if value}
        known = {name: str(data[name]) for name in ("id", "benchmark", "video", "path", "question", "answer")}
        return cls(**known, options=tuple(data["options"]), groups=groups, events=tuple(data.get("events") or ()))


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows to ``path``, one JSON object per line."""
    write_jsonl(path, (row.to_dict() for row in rows))


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a file from `write_rows`.

    Raises:
        UsageError: The file is not one.
    """
    try:
        return [Row.from_dict(data) for _, data in parse_jsonl(path.read_text(encoding="utf-8"), path)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} has no rows of a benchmark ({type(error).__name__}); convert the metadata again"
        ) from error


_CHOOSE = (
    "Select the best answer to the following multiple-choice question based on the video. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)
QWEN = (
    "You are Qwen, a virtual human developed by the Qwen Team, Alibaba Group, capable of perceiving auditory and "
    "visual inputs, as well as generating text and speech."
)
"""The system prompt of Qwen2.5-Omni, which some official scripts send; the paper's evaluation sends none."""


def _videomme(row: Row) -> str:
    """Wording of Video-MME and of figure 7 of the paper."""
    return f"{_CHOOSE}\n{row.question}\n{_lines(row)}\nThe best answer is:"


def _bare(row: Row) -> str:
    """Question and options alone, as in the paper's repository for OmniVideoBench."""
    return f"{row.question}\n{_lines(row)}\n"


def _dailyomni(row: Row) -> str:
    """Wording of Daily-Omni's ``test_model/*/testmodel.py``, with the choices as a Python list."""
    return (
        "\nYour task is to accurately answer multiple-choice questions based on the given video.\n"
        "Select the single most accurate answer from the given choices.\n"
        f"Question: {row.question}\nChoices: {list(row.options)}\n"
        "Your answer should be a capital letter representing your choice: A, B, C, or D. "
        "Don't generate any other text.\n"
    )


def _worldsense(row: Row) -> str:
    """Wording of WorldSense with audio in VLMEvalKit, which puts the first two sentences before the video."""
    return (
        "Carefully watch this video and pay attention to every detail. "
        "Based on your observations, select the best option that accurately addresses the question.\n"
        f"These are the frames of a video and the corresponding audio. {_CHOOSE}\n\n"
        f"Question: {row.question}\n{_lines(row)}\nAnswer: "
    )


def _omnivideobench(row: Row) -> str:
    """Wording of OmniVideoBench's ``eval/qwenomni_eval.py``, which has no spaces between its last sentences."""
    return (
        "You are given a video. Based on the content of the video, answer the following question:\n\n"
        f"Question:\n{row.question}\n\nOptions:\n{_lines(row)}\n\n"
        "Answer with the option's letter directly(e.g., A, B, C, or D)."
        "If your access to the video content is limited, at least one option that is more likely than the others must "
        "be chosen.Mustn't give any other reason for can not choose!"
    )


def _describe(row: Row) -> str:
    """The text of the row alone; for captions the instruction (figure 8 of the paper shows one of seven)."""
    return row.question


def _lines(row: Row) -> str:
    return "\n".join(row.options)


_ALONE: dict[str, Callable[[Row], str]] = dict.fromkeys(
    ("worldsense", "dailyomni", "omnivideobench", "videomme", "video_salmonn2"), _describe
)

PROMPTS: dict[str, dict[str, Callable[[Row], str]]] = {
    "paper": {
        "worldsense": _videomme,
        "dailyomni": _videomme,
        "omnivideobench": _bare,
        "videomme": _videomme,
        "video_salmonn2": _describe,
    },
    "official": {
        "worldsense": _worldsense,
        "dailyomni": _dailyomni,
        "omnivideobench": _omnivideobench,
        "videomme": _videomme,
        "video_salmonn2": _describe,
    },
    "question": _ALONE,
}
"""Wording -> benchmark -> function from a row to the prompt. ``question`` omits the options, for models that answer in
words, such as nano; only the rule ``strict`` accepts words."""


def prompt(row: Row, wording: str = "paper") -> str:
    """Return the text after the video.

    Raises:
        UsageError: The wording is unknown.
    """
    if wording not in PROMPTS:
        raise UsageError(f"no prompts named {wording!r}; known: {', '.join(PROMPTS)}{meant(wording, PROMPTS)}")
    return PROMPTS[wording][row.benchmark](row)
