"""Prompts of the benchmarks: the paper's wording, or that of each benchmark.

Results are comparable only with the same wording.
"""

from __future__ import annotations

from collections.abc import Callable

from omnisift.errors import UsageError
from omnisift.evaluation.public.rows import Row

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
        raise UsageError(f"no prompts named {wording!r}; known: {', '.join(PROMPTS)}")
    return PROMPTS[wording][row.benchmark](row)
