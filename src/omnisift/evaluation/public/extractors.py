"""Answer rules: from the text of an answer to the chosen letter; an empty string counts as wrong.

Published rules differ: ``(C)`` is an open bracket for the paper's script and C for Video-MME's. So a result names its
rule and keeps the text, and a report can apply another rule.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable

from omnisift.errors import UsageError
from omnisift.evaluation.public.rows import LETTERS, Row
from omnisift.utils.suggest import meant

_VIDEOMME_PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option isThe correct option is",  # the published rule lacks a comma here
    "Best answer:Best option:",
    "Answer:",
    "Option:",
)
_BOXED = re.compile(r"\\boxed\{(?:\\text\{)?([A-Za-z])\}?\}")
_LETTER = re.compile(r"\(?[A-J](?:[.):]\s*|\s+)")
_BARE = re.compile(r"[\s\"'`*_(\[]*([A-J])[\s\"'`*_)\].:]*")


def videomme(text: str, _row: Row) -> str:
    """Apply Video-MME's rule: remove known phrases, then take the first capital A, B, C or D.

    So ``A man is singing, so C`` gives A. WorldSense in VLMEvalKit uses the same rule.
    """
    rest = text.strip()
    for phrase in _VIDEOMME_PREFIXES:
        rest = rest.replace(phrase, "")
    match = re.search("[ABCD]", rest)
    return match[0] if match else ""


def dailyomni(text: str, _row: Row) -> str:
    """Apply Daily-Omni's rule: the text begins with A to D, in either case."""
    match = re.match(r"\s*([A-D])", _after_turn(text), re.IGNORECASE)
    return match[1].upper() if match else ""


def omnivideobench(text: str, _row: Row) -> str:
    r"""Apply OmniVideoBench's rule: a letter in ``\boxed{}``, else the text without punctuation if it is one letter."""
    boxed = _BOXED.search(text)
    if boxed:
        return boxed[1].upper()
    clean = " ".join(_after_turn(text).translate(str.maketrans("", "", string.punctuation)).split())
    return clean.upper() if len(clean) == 1 and clean.upper() in LETTERS else ""


def released(text: str, _row: Row) -> str:
    """Apply the paper's rule: ``X``, ``X.`` or ``X:`` in front, else the first lone letter, else the first character.

    A lone ``I`` or ``a`` counts as a letter, and the first character can be any.
    """
    words = text.strip().upper()
    if re.match(r"[A-Z](?:[.:]|$)", words):
        return words[0]
    alone = [letter for letter in string.ascii_uppercase if f" {letter} " in f" {words} "]
    return alone[0] if alone else words[:1]


def strict(text: str, row: Row) -> str:
    """Accept only the letter of an option, bare or in brackets, with or without a full stop, or the words of an option.

    The words count with or without their letter, in either case, for models that do not answer by letters.
    """
    match = _BARE.fullmatch(text)
    if match and match[1] in LETTERS[: len(row.options)]:
        return match[1]
    words = normalise_answer(text)
    forms = [
        {normalise_answer(option), normalise_answer(_LETTER.sub("", option.strip(), count=1))} for option in row.options
    ]
    matching = [letter for letter, form in zip(LETTERS, forms, strict=False) if words in form - {""}]
    return matching[0] if len(matching) == 1 else ""


def normalise_answer(text: str) -> str:
    """The words of an answer, so that case, white space around them and a full stop at the end do not count."""
    return text.strip().rstrip(".").strip().casefold()


def official(text: str, row: Row) -> str:
    """Apply the rule of the row's benchmark."""
    return _OFFICIAL[row.benchmark](text, row)


def _after_turn(text: str) -> str:
    """The text after the last speaker: some official scripts decode the complete conversation."""
    return text.rpartition("assistant\n")[2].strip()


_OFFICIAL: dict[str, Callable[[str, Row], str]] = {
    "worldsense": videomme,
    "videomme": videomme,
    "dailyomni": dailyomni,
    "omnivideobench": omnivideobench,
}
EXTRACTORS: dict[str, Callable[[str, Row], str]] = {
    "videomme": videomme,
    "official": official,
    "released": released,
    "strict": strict,
}


def extract(text: str, row: Row, rule: str = "videomme") -> str:
    """Return the chosen letter, or an empty string.

    Args:
        text: Answer of the model.
        row: The question.
        rule: Name of the rule, a key of `EXTRACTORS`.

    Raises:
        UsageError: The rule is unknown.
    """
    if rule not in EXTRACTORS:
        raise UsageError(f"no answer rule named {rule!r}; known: {', '.join(EXTRACTORS)}{meant(rule, EXTRACTORS)}")
    return EXTRACTORS[rule](text, row)
